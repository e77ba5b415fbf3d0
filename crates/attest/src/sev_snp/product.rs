//! The lines of processors that do SEV-SNP.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A line of processors that has a root of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Product {
    /// EPYC 7003.
    Milan,
    /// EPYC 9004 and 8004; Bergamo and Siena are under this root.
    Genoa,
    /// EPYC 9005.
    Turin,
}

impl Product {
    /// The line that a certificate names: `Milan`, or with the stepping `Milan-B0`.
    pub fn of_name(name: &str) -> Option<Self> {
        match name.split_once('-').map_or(name, |(line, _stepping)| line) {
            "Milan" => Some(Self::Milan),
            "Genoa" | "Bergamo" | "Siena" => Some(Self::Genoa),
            "Turin" => Some(Self::Turin),
            _ => None,
        }
    }

    /// The line of a processor, by its combined family and model as CPUID gives them.
    pub const fn of_cpuid(family: u8, model: u8) -> Option<Self> {
        match (family, model) {
            (0x19, 0x00..=0x0f) => Some(Self::Milan),
            (0x19, 0x10..=0x1f | 0xa0..=0xaf) => Some(Self::Genoa),
            (0x1a, 0x00..=0x1f) => Some(Self::Turin),
            _ => None,
        }
    }

    /// As AMD writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        }
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_known_by_its_name_and_by_its_processors() {
        for name in ["Milan", "Milan-B0", "Milan-B1"] {
            assert_eq!(Product::of_name(name), Some(Product::Milan));
        }
        assert_eq!(Product::of_name("Siena-B1"), Some(Product::Genoa));
        for name in ["", "-", "milan", "Milano", "Naples", "B0-Milan"] {
            assert_eq!(Product::of_name(name), None, "{name}");
        }
        assert_eq!(Product::of_cpuid(0x19, 0x01), Some(Product::Milan));
        assert_eq!(Product::of_cpuid(0x19, 0x11), Some(Product::Genoa));
        assert_eq!(Product::of_cpuid(0x19, 0xa0), Some(Product::Genoa), "Bergamo and Siena");
        assert_eq!(Product::of_cpuid(0x1a, 0x02), Some(Product::Turin));
        assert_eq!(Product::of_cpuid(0x17, 0x31), None, "Rome has no SNP");
    }
}
