//! Diagnostics as their readers see them. `golden/NAME.toml` is a configuration with mistakes, `golden/NAME.txt` what
//! is said about it. With `DMVPN_BLESS=1` in the environment the latter are written anew.

use super::golden_folder;
use crate::examine_text;

#[test]
fn diagnostics() {
    let bless = std::env::var_os("DMVPN_BLESS").is_some();
    let mut count = 0;
    for entry in std::fs::read_dir(golden_folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap();
        let examined = examine_text(&std::fs::read_to_string(&path).unwrap(), name);
        let shown: Vec<String> =
            examined.diagnostics.iter().map(|diagnostic| format!("{diagnostic}\n")).collect();
        let shown = shown.join("\n");
        let expected = path.with_extension("txt");
        if bless {
            std::fs::write(&expected, &shown).unwrap();
        }
        assert_eq!(shown, std::fs::read_to_string(&expected).unwrap(), "{name}");
        count += 1;
    }
    assert!(count >= 5, "{count} goldens");
}
