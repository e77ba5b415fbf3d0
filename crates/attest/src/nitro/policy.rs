//! Which enclaves an operator accepts.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::appraise::is_awss;
use crate::{Hex, x509::Certificate};

/// What an operator accepts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// AWS's roots, in PEM.
    pub roots: String,
    /// By index of a register, what it may hold: SHA-384. 0 is the image, 1 kernel and boot, 2 the application, 3 the role of the
    /// instance, 4 its id, 8 who signed the image.
    #[serde(default)]
    pub pcrs: BTreeMap<u8, BTreeSet<Hex<48>>>,
}

impl Policy {
    /// Whether it makes sense in itself.
    ///
    /// # Errors
    /// What does not, for people.
    pub fn check(&self) -> Result<(), String> {
        self.roots()?;
        if let Some(index) = self.pcrs.keys().find(|index| **index > 31) {
            return Err(format!("there is no pcr {index}"));
        }
        if let Some((index, _)) = self.pcrs.iter().find(|(_, values)| values.is_empty()) {
            return Err(format!("nothing would do for pcr {index}: give values, or leave it out"));
        }
        if !self.pcrs.contains_key(&0) && !self.pcrs.contains_key(&8) {
            return Err("any image would do: give values for pcr 0, or for pcr 8".to_owned());
        }
        let empty = |index: &&u8| self.pcrs.get(index).is_some_and(|values| values.contains(&Hex([0; 48])));
        match [0, 1, 2, 8].iter().find(empty) {
            Some(index) => {
                Err(format!("pcr {index} is zero in debug mode, or where the image is not signed"))
            }
            None => Ok(()),
        }
    }

    /// The roots, which sign themselves as AWS's does.
    pub(super) fn roots(&self) -> Result<Vec<Certificate>, String> {
        if self.roots.is_empty() {
            return Err("`roots` is empty: give AWS's root certificate in PEM".to_owned());
        }
        let roots = Certificate::parse_pem(&self.roots).map_err(|error| format!("`roots`: {error}"))?;
        match roots.iter().find(|root| !is_awss(root) || !root.is_ca()) {
            Some(root) => {
                Err(format!("`roots`: {} is no authority with ECDSA P-384 and SHA-384", root.subject()))
            }
            None => Ok(roots),
        }
    }
}
