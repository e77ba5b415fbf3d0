//! The levels of what a guest has to trust: firmware and microcode.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Product;

/// TCB_VERSION: the security version of each component. Each only rises as AMD closes holes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tcb {
    /// The first mutable code of the Secure Processor; from Turin on, 0 before.
    #[serde(default)]
    pub fmc: u8,
    /// The boot loader of the Secure Processor.
    pub bootloader: u8,
    /// The operating system of the Secure Processor.
    pub tee: u8,
    /// The SNP firmware.
    pub snp: u8,
    /// The microcode, the lowest of all cores.
    pub microcode: u8,
}

impl Tcb {
    /// Reads a TCB_VERSION of a report, whose layout depends on the product line. `None` where reserved bytes are not zero.
    pub const fn parse(bytes: [u8; 8], product: Product) -> Option<Self> {
        match (product, bytes) {
            (Product::Milan | Product::Genoa, [bootloader, tee, 0, 0, 0, 0, snp, microcode]) => {
                Some(Self { fmc: 0, bootloader, tee, snp, microcode })
            }
            (Product::Turin, [fmc, bootloader, tee, snp, 0, 0, 0, microcode]) => {
                Some(Self { fmc, bootloader, tee, snp, microcode })
            }
            _ => None,
        }
    }

    /// Whether no component is below that of `least`.
    pub const fn covers(&self, least: &Self) -> bool {
        self.fmc >= least.fmc
            && self.bootloader >= least.bootloader
            && self.tee >= least.tee
            && self.snp >= least.snp
            && self.microcode >= least.microcode
    }
}

impl fmt::Display for Tcb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.fmc != 0 {
            write!(f, "fmc {}, ", self.fmc)?;
        }
        let Self { bootloader, tee, snp, microcode, .. } = self;
        write!(f, "bootloader {bootloader}, tee {tee}, snp {snp}, microcode {microcode}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_that_of_the_product_line_and_reserved_bytes_are_zero() {
        let milan = Tcb { fmc: 0, bootloader: 3, tee: 1, snp: 8, microcode: 115 };
        assert_eq!(Tcb::parse([3, 1, 0, 0, 0, 0, 8, 115], Product::Milan), Some(milan));
        let turin = Tcb { fmc: 7, ..milan };
        assert_eq!(Tcb::parse([7, 3, 1, 8, 0, 0, 0, 115], Product::Turin), Some(turin));
        assert_eq!(Tcb::parse([7, 3, 1, 8, 0, 0, 0, 115], Product::Genoa), None);
        assert_eq!(Tcb::parse([3, 1, 0, 0, 0, 1, 8, 115], Product::Turin), None);
    }

    #[test]
    fn one_component_that_is_too_low_is_enough() {
        let least = Tcb { fmc: 1, bootloader: 1, tee: 1, snp: 1, microcode: 1 };
        assert!(least.covers(&least));
        let high = Tcb { fmc: 9, bootloader: 9, tee: 9, snp: 9, microcode: 9 };
        for low in [
            Tcb { fmc: 0, ..high },
            Tcb { bootloader: 0, ..high },
            Tcb { tee: 0, ..high },
            Tcb { snp: 0, ..high },
            Tcb { microcode: 0, ..high },
        ] {
            assert!(!low.covers(&least), "{low}");
        }
    }
}
