//! The targets, by the part that parses.

mod configuration;
mod evidence;
mod flows;
mod packets;
mod text;
mod tunnels;

use crate::Target;

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "session-to-coordinator", seeds: text::to_coordinator, run: text::run_to_coordinator },
    Target { name: "session-to-node", seeds: text::to_node, run: text::run_to_node },
    Target { name: "join-token", seeds: text::tokens, run: text::run_token },
    Target { name: "credential", seeds: text::credentials, run: text::run_credential },
    Target { name: "checkpoint", seeds: text::checkpoints, run: text::run_checkpoint },
    Target { name: "log-entry", seeds: text::entries, run: text::run_entry },
    Target { name: "bundle", seeds: text::bundles, run: text::run_bundle },
    Target { name: "statement", seeds: evidence::statements, run: evidence::run_statement },
    Target { name: "certificate", seeds: evidence::certificates, run: evidence::run_certificate },
    Target { name: "revocation-list", seeds: evidence::lists, run: evidence::run_list },
    Target { name: "kubernetes-token", seeds: evidence::kubernetes, run: evidence::run_kubernetes },
    Target { name: "tpm-quote", seeds: evidence::tpm, run: evidence::run_tpm },
    Target { name: "sev-snp-report", seeds: evidence::sev_snp, run: evidence::run_sev_snp },
    Target { name: "tdx-quote", seeds: evidence::tdx, run: evidence::run_tdx },
    Target { name: "nitro-document", seeds: evidence::nitro, run: evidence::run_nitro },
    Target { name: "configuration", seeds: configuration::said, run: configuration::run },
    Target { name: "datagram", seeds: packets::datagrams, run: packets::run_datagrams },
    Target { name: "packet", seeds: packets::packets, run: packets::run_packet },
    Target { name: "flow", seeds: flows::flows, run: flows::run },
    Target { name: "initiation", seeds: tunnels::initiations, run: tunnels::run_initiation },
    Target { name: "response", seeds: tunnels::responses, run: tunnels::run_response },
    Target { name: "cookie-reply", seeds: tunnels::cookie_replies, run: tunnels::run_cookie_reply },
    Target { name: "data", seeds: tunnels::data, run: tunnels::run_data },
];
