//! The addresses of this host that peers spoke to: answers leave from there for as long as that is right.

use super::Device;
use crate::{endpoint::Endpoint, tunnel::Tunnel};

impl Device {
    /// Where peers are that are answered from the address that they spoke to.
    pub fn sources(&self) -> impl Iterator<Item = Endpoint> {
        let endpoints = self.peers.values().flat_map(|peer| {
            let remembered = peer.settings.as_ref().and_then(|settings| settings.endpoint);
            peer.tunnels().filter_map(Tunnel::endpoint).chain(remembered)
        });
        endpoints.filter(|endpoint| endpoint.source.is_some())
    }

    /// Lets what goes to these places leave from wherever the routing table says, until something comes from there.
    pub fn forget_sources(&mut self, which: impl Fn(&Endpoint) -> bool) {
        for peer in self.peers.values_mut() {
            let remembered = peer.settings.as_mut().and_then(|settings| settings.endpoint.as_mut());
            remembered
                .into_iter()
                .filter(|endpoint| which(endpoint))
                .for_each(|endpoint| endpoint.source = None);
            peer.tunnels().for_each(|tunnel| tunnel.place.forget_source(&which));
        }
    }
}

#[cfg(test)]
mod tests;
