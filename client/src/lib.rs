//! A pinned TLS connection to a coordinator, and its HTTP API.
