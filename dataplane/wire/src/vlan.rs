//! VLAN tags (IEEE 802.1Q).

use zerocopy::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{EtherType, View};

/// What follows an [`EtherType::VLAN`]: tag control information, and the type of what comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Tag {
    control: U16,
    ether_type: U16,
}

impl View for Tag {}

impl Tag {
    /// A tag for VLAN `id` (0 to 4094; 0 carries a priority only) with `priority` 0 to 7; `None` outside
    /// these bounds.
    pub fn new(id: u16, priority: u8, ether_type: EtherType) -> Option<Self> {
        if id >= 0xfff || priority > 7 {
            return None;
        }
        Some(Self { control: (u16::from(priority) << 13 | id).into(), ether_type: ether_type.0.into() })
    }

    /// VLAN identifier; 0 means none, 4095 is reserved.
    #[inline]
    pub fn id(&self) -> u16 {
        self.control.get() & 0xfff
    }

    /// Priority code point, 0 to 7.
    #[inline]
    pub fn priority(&self) -> u8 {
        self.octets()[0] >> 5
    }

    /// Drop eligible indicator.
    #[inline]
    pub fn drop_eligible(&self) -> bool {
        self.control.get() & 0x1000 != 0
    }

    /// What follows the tag.
    #[inline]
    pub fn ether_type(&self) -> EtherType {
        EtherType(self.ether_type.get())
    }
}
