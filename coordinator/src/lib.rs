//! The coordinator: API, sessions, netmaps, store and web page.
