//! Triple DES (FIPS 46-3), laid out for the same byte of many blocks in one register.
//!
//! Half a block is four bytes. Where the rounds work on it, byte `j` has its bits `8j` to `8j + 7`, counted as FIPS 46-3
//! counts them, with bit 32 as bit 0: so the six bits for an S-box of odd number, which are `8j` to `8j + 5`, are there
//! already, in order, as the low ones. Those for the S-box after it begin with the other two: see [`place`].

use zeroize::{Zeroize, ZeroizeOnDrop};

/// A block.
pub(crate) type Block = [u8; 8];

/// Rounds of the three passes together.
pub(super) const ROUNDS: usize = 48;

/// Round keys in the order they are used: in each round six bits for each S-box, at the places of [`place`].
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct Schedule {
    pub(super) round_keys: [[u8; 8]; ROUNDS],
}

impl Schedule {
    /// From a key of 24 bytes, for encryption: with the first key, back with the second, and with the third (RFC 2451 section 2).
    pub(super) fn encrypting(key: &[u8]) -> Self {
        let mut schedule = Self { round_keys: [[0; 8]; ROUNDS] };
        let passes = schedule.round_keys.as_chunks_mut::<16>().0;
        for (round_keys, key) in passes.iter_mut().zip(key.as_chunks().0) {
            expand(*key, round_keys);
        }
        passes[1].reverse();
        schedule
    }

    /// For decryption: the same rounds from the last to the first.
    pub(super) fn decrypting(key: &[u8]) -> Self {
        let mut schedule = Self::encrypting(key);
        schedule.round_keys.reverse();
        schedule
    }
}

/// The S-boxes by six bits as they are placed for them. Of each two, the output of the first is in the high half of the
/// byte and that of the second in the low one.
pub(super) static SUBSTITUTIONS: [Table; 8] = substitutions();

/// An S-box, as one register.
#[repr(C, align(64))]
pub(super) struct Table(pub(super) [u8; 64]);

/// A linear function of bytes, as `vgf2p8affineqb` has it: by byte that comes out, an 8 by 8 matrix of bits for each byte
/// that goes in. The results of those are added up.
pub(super) type Linear<const IN: usize, const OUT: usize> = [[i64; IN]; OUT];

/// From the bytes of a block to those of its left half, and then its right one.
pub(super) static INITIAL_PERMUTATION: Linear<8, 8> = linear(initial_permutation());

/// Back from there.
pub(super) static FINAL_PERMUTATION: Linear<8, 8> = linear(turned(initial_permutation()));

/// From the output of the S-boxes to what is added to half a block.
pub(super) static PERMUTATION: Linear<4, 4> = linear(permutation());

/// Bits `8j + 4` to `8j + 7` of a byte at their places for an S-box of even number.
pub(super) const SECOND: i64 = linear::<1, 1, 4>([
    (half_bit(4), place(1, 0)),
    (half_bit(5), place(1, 1)),
    (half_bit(6), place(1, 2)),
    (half_bit(7), place(1, 3)),
])[0][0];

/// The places of the other two, `8j + 8` and `8j + 9`, where they are in the next byte already.
pub(super) const SECOND_NEXT: i8 = 1 << place(1, 4) | 1 << place(1, 5);

/// A bit of some bytes: bit `wire % 8`, counted from the lowest, of byte `wire / 8`.
type Wire = usize;

/// Where bit `bit`, 0 to 5, of the input of S-box `index`, 0 to 7, is.
const fn place(index: usize, bit: usize) -> usize {
    // The last two come first there: they are where the next byte has them.
    if index.is_multiple_of(2) { 5 - bit } else { (9 - bit) % 6 }
}

/// Where bit `bit`, 1 to 64, of a block is. The same for the outputs of all S-boxes together.
const fn block_bit(bit: u8) -> Wire {
    let index = bit as usize - 1;
    index - index % 8 + 7 - index % 8
}

/// Where bit `bit`, 1 to 32, of half a block is while the rounds work on it.
const fn half_bit(bit: usize) -> Wire {
    const PLACES: [Wire; 8] = [5, 4, 3, 2, 1, 0, 7, 6];
    let bit = bit % 32;
    bit - bit % 8 + PLACES[bit % 8]
}

/// The function that leads bits from the first wire of a pair to the second.
const fn linear<const IN: usize, const OUT: usize, const N: usize>(
    wires: [(Wire, Wire); N],
) -> Linear<IN, OUT> {
    let mut matrices = [[0; IN]; OUT];
    let mut i = 0;
    while i < N {
        let (from, to) = wires[i];
        // Row 0, for the lowest bit that comes out, is the highest byte.
        matrices[to / 8][from / 8] |= 1 << (8 * (7 - to % 8) + from % 8);
        i += 1;
    }
    matrices
}

const fn turned<const N: usize>(mut wires: [(Wire, Wire); N]) -> [(Wire, Wire); N] {
    let mut i = 0;
    while i < N {
        wires[i] = (wires[i].1, wires[i].0);
        i += 1;
    }
    wires
}

const fn initial_permutation() -> [(Wire, Wire); 64] {
    let mut wires = [(0, 0); 64];
    let mut i = 0;
    while i < 64 {
        wires[i] = (block_bit(IP[i]), i / 32 * 32 + half_bit(i % 32 + 1));
        i += 1;
    }
    wires
}

const fn permutation() -> [(Wire, Wire); 32] {
    let mut wires = [(0, 0); 32];
    let mut i = 0;
    while i < 32 {
        wires[i] = (block_bit(P[i]), half_bit(i + 1));
        i += 1;
    }
    wires
}

const fn substitutions() -> [Table; 8] {
    let mut tables = [const { Table([0; 64]) }; 8];
    let mut index = 0;
    while index < 8 {
        let mut input = 0;
        while input < 64 {
            // The first and the last bit say the row, those between them the column.
            let row = bit(index, input, 0) << 1 | bit(index, input, 5);
            let column = bit(index, input, 1) << 3
                | bit(index, input, 2) << 2
                | bit(index, input, 3) << 1
                | bit(index, input, 4);
            tables[index].0[input] = S[index][row][column] << (4 - index % 2 * 4);
            input += 1;
        }
        index += 1;
    }
    tables
}

/// Bit `bit` of the input of S-box `index`, as it is placed.
const fn bit(index: usize, input: usize, bit: usize) -> usize {
    input >> place(index, bit) & 1
}

/// The key schedule of DES (FIPS 46-3, "KS"), without a branch or an address that depends on the key.
fn expand(key: [u8; 8], round_keys: &mut [[u8; 8]; 16]) {
    let key = u64::from_be_bytes(key);
    let mut shifted = 0;
    for (round_key, shift) in round_keys.iter_mut().zip(SHIFTS) {
        shifted += shift;
        for (i, &chosen) in PC2.iter().enumerate() {
            // C and D go round for themselves.
            let (half, index) = ((chosen - 1) / 28, (chosen - 1) % 28);
            let bit = key >> (64 - PC1[half * 28 + (index + shifted) % 28]) & 1;
            round_key[i / 6] |= u8::from(bit == 1) << place(i / 6, i % 6);
        }
    }
}

/// FIPS 46-3, initial permutation.
#[rustfmt::skip]
const IP: [u8; 64] = [
    58, 50, 42, 34, 26, 18, 10, 2, 60, 52, 44, 36, 28, 20, 12, 4, 62, 54, 46, 38, 30, 22, 14, 6, 64, 56, 48, 40, 32, 24, 16, 8,
    57, 49, 41, 33, 25, 17,  9, 1, 59, 51, 43, 35, 27, 19, 11, 3, 61, 53, 45, 37, 29, 21, 13, 5, 63, 55, 47, 39, 31, 23, 15, 7,
];

/// FIPS 46-3, permutation function P.
#[rustfmt::skip]
const P: [u8; 32] = [
    16,  7, 20, 21, 29, 12, 28, 17,  1, 15, 23, 26,  5, 18, 31, 10,
     2,  8, 24, 14, 32, 27,  3,  9, 19, 13, 30,  6, 22, 11,  4, 25,
];

/// FIPS 46-3, permuted choice 1.
#[rustfmt::skip]
const PC1: [usize; 56] = [
    57, 49, 41, 33, 25, 17,  9, 1, 58, 50, 42, 34, 26, 18, 10, 2, 59, 51, 43, 35, 27, 19, 11, 3, 60, 52, 44, 36,
    63, 55, 47, 39, 31, 23, 15, 7, 62, 54, 46, 38, 30, 22, 14, 6, 61, 53, 45, 37, 29, 21, 13, 5, 28, 20, 12,  4,
];

/// FIPS 46-3, permuted choice 2.
#[rustfmt::skip]
const PC2: [usize; 48] = [
    14, 17, 11, 24,  1,  5,  3, 28, 15,  6, 21, 10, 23, 19, 12,  4, 26,  8, 16,  7, 27, 20, 13,  2,
    41, 52, 31, 37, 47, 55, 30, 40, 51, 45, 33, 48, 44, 49, 39, 56, 34, 53, 46, 42, 50, 36, 29, 32,
];

/// FIPS 46-3, left shifts of the key schedule.
const SHIFTS: [usize; 16] = [1, 1, 2, 2, 2, 2, 2, 2, 1, 2, 2, 2, 2, 2, 2, 1];

/// FIPS 46-3, S1 to S8, by row and column.
#[rustfmt::skip]
const S: [[[u8; 16]; 4]; 8] = [
    [
        [14,  4, 13,  1,  2, 15, 11,  8,  3, 10,  6, 12,  5,  9,  0,  7],
        [ 0, 15,  7,  4, 14,  2, 13,  1, 10,  6, 12, 11,  9,  5,  3,  8],
        [ 4,  1, 14,  8, 13,  6,  2, 11, 15, 12,  9,  7,  3, 10,  5,  0],
        [15, 12,  8,  2,  4,  9,  1,  7,  5, 11,  3, 14, 10,  0,  6, 13],
    ], [
        [15,  1,  8, 14,  6, 11,  3,  4,  9,  7,  2, 13, 12,  0,  5, 10],
        [ 3, 13,  4,  7, 15,  2,  8, 14, 12,  0,  1, 10,  6,  9, 11,  5],
        [ 0, 14,  7, 11, 10,  4, 13,  1,  5,  8, 12,  6,  9,  3,  2, 15],
        [13,  8, 10,  1,  3, 15,  4,  2, 11,  6,  7, 12,  0,  5, 14,  9],
    ], [
        [10,  0,  9, 14,  6,  3, 15,  5,  1, 13, 12,  7, 11,  4,  2,  8],
        [13,  7,  0,  9,  3,  4,  6, 10,  2,  8,  5, 14, 12, 11, 15,  1],
        [13,  6,  4,  9,  8, 15,  3,  0, 11,  1,  2, 12,  5, 10, 14,  7],
        [ 1, 10, 13,  0,  6,  9,  8,  7,  4, 15, 14,  3, 11,  5,  2, 12],
    ], [
        [ 7, 13, 14,  3,  0,  6,  9, 10,  1,  2,  8,  5, 11, 12,  4, 15],
        [13,  8, 11,  5,  6, 15,  0,  3,  4,  7,  2, 12,  1, 10, 14,  9],
        [10,  6,  9,  0, 12, 11,  7, 13, 15,  1,  3, 14,  5,  2,  8,  4],
        [ 3, 15,  0,  6, 10,  1, 13,  8,  9,  4,  5, 11, 12,  7,  2, 14],
    ], [
        [ 2, 12,  4,  1,  7, 10, 11,  6,  8,  5,  3, 15, 13,  0, 14,  9],
        [14, 11,  2, 12,  4,  7, 13,  1,  5,  0, 15, 10,  3,  9,  8,  6],
        [ 4,  2,  1, 11, 10, 13,  7,  8, 15,  9, 12,  5,  6,  3,  0, 14],
        [11,  8, 12,  7,  1, 14,  2, 13,  6, 15,  0,  9, 10,  4,  5,  3],
    ], [
        [12,  1, 10, 15,  9,  2,  6,  8,  0, 13,  3,  4, 14,  7,  5, 11],
        [10, 15,  4,  2,  7, 12,  9,  5,  6,  1, 13, 14,  0, 11,  3,  8],
        [ 9, 14, 15,  5,  2,  8, 12,  3,  7,  0,  4, 10,  1, 13, 11,  6],
        [ 4,  3,  2, 12,  9,  5, 15, 10, 11, 14,  1,  7,  6,  0,  8, 13],
    ], [
        [ 4, 11,  2, 14, 15,  0,  8, 13,  3, 12,  9,  7,  5, 10,  6,  1],
        [13,  0, 11,  7,  4,  9,  1, 10, 14,  3,  5, 12,  2, 15,  8,  6],
        [ 1,  4, 11, 13, 12,  3,  7, 14, 10, 15,  6,  8,  0,  5,  9,  2],
        [ 6, 11, 13,  8,  1,  4, 10,  7,  9,  5,  0, 15, 14,  2,  3, 12],
    ], [
        [13,  2,  8,  4,  6, 15, 11,  1, 10,  9,  3, 14,  5,  0, 12,  7],
        [ 1, 15, 13,  8, 10,  3,  7,  4, 12,  5,  6, 11,  0, 14,  9,  2],
        [ 7, 11,  4,  1,  9, 12, 14,  2,  0,  6, 10, 13, 15,  3,  5,  8],
        [ 2,  1, 14,  7,  4, 10,  8, 13, 15, 12,  9,  0,  3,  5,  6, 11],
    ],
];
