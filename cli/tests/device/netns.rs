//! What the kernel checks of its own WireGuard.
