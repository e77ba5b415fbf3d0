//! The WireGuard device: allowed IPs, tunnels on demand; buffers in, buffers out.
