//! Where a peer is, as everyone knows it who exchanges messages with it.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use crate::endpoint::Endpoint;

/// Where a peer was last heard of in one tunnel.
///
/// Whoever opens a message of the tunnel says so here before anything is made of what was in it: thus an answer goes to where the
/// question came from, whichever thread seals it.
#[derive(Debug, Default)]
pub(crate) struct Place {
    /// Grows with every change.
    version: AtomicU64,
    endpoint: Mutex<Option<Endpoint>>,
}

/// What one thread knows of a place. It takes the lock only where something has changed.
#[derive(Debug, Clone)]
pub(crate) struct Sight {
    place: Arc<Place>,
    version: u64,
    endpoint: Option<Endpoint>,
}

impl Place {
    pub(crate) fn new(endpoint: Option<Endpoint>) -> Self {
        Self { version: AtomicU64::new(0), endpoint: Mutex::new(endpoint) }
    }

    pub(crate) fn get(&self) -> Option<Endpoint> {
        *self.lock()
    }

    /// The peer is there from here on. Says where it was before.
    pub(crate) fn set(&self, endpoint: Endpoint) -> Option<Endpoint> {
        let mut known = self.lock();
        let before = known.replace(endpoint);
        if before != Some(endpoint) {
            self.version.fetch_add(1, Ordering::Release);
        }
        before
    }

    /// Lets what goes there leave from wherever the routing table says, if `which` says so.
    pub(crate) fn forget_source(&self, which: impl FnOnce(&Endpoint) -> bool) {
        let mut known = self.lock();
        if let Some(endpoint) = known.as_mut().filter(|endpoint| endpoint.source.is_some() && which(endpoint))
        {
            endpoint.source = None;
            self.version.fetch_add(1, Ordering::Release);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Endpoint>> {
        self.endpoint.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sight {
    pub(crate) fn new(place: Arc<Place>) -> Self {
        // In this order: what changes meanwhile is looked at again.
        let version = place.version.load(Ordering::Acquire);
        let endpoint = place.get();
        Self { place, version, endpoint }
    }

    pub(crate) fn get(&mut self) -> Option<Endpoint> {
        if self.place.version.load(Ordering::Acquire) != self.version {
            *self = Self::new(self.place.clone());
        }
        self.endpoint
    }

    /// The peer is there from here on.
    pub(crate) fn set(&mut self, endpoint: Endpoint) {
        if self.get() != Some(endpoint) {
            self.place.set(endpoint);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::endpoint::Source;

    fn at(n: u8) -> Endpoint {
        let source = Some(Source { address: [10, 0, 0, n].into(), interface: 2 });
        Endpoint { remote: SocketAddr::from(([192, 0, 2, n], 51_820)), source }
    }

    #[test]
    fn what_one_thread_says_another_sees_at_once() {
        let place = Arc::new(Place::default());
        let (mut one, mut two) = (Sight::new(place.clone()), Sight::new(place.clone()));
        assert_eq!((one.get(), two.get()), (None, None));
        one.set(at(1));
        assert_eq!((one.get(), two.get()), (Some(at(1)), Some(at(1))));
        two.set(at(2));
        assert_eq!((one.get(), place.get()), (Some(at(2)), Some(at(2))));
        assert_eq!(place.set(at(3)), Some(at(2)));
        assert_eq!((one.get(), two.get()), (Some(at(3)), Some(at(3))));
    }

    #[test]
    fn a_source_is_forgotten_only_where_it_is_still_meant() {
        let place = Arc::new(Place::new(Some(at(1))));
        let mut sight = Sight::new(place.clone());
        place.forget_source(|endpoint| *endpoint == at(2));
        assert_eq!(sight.get(), Some(at(1)));
        place.forget_source(|endpoint| *endpoint == at(1));
        assert_eq!(sight.get(), Some(at(1).remote.into()));
    }
}
