//! What a person or an earlier run wrote into the node's directory, with wrong bytes.

use crate::config::NodeConfig;
use crate::identity::NodeIdentity;
use weft_types::fuzz::{Counting, Decoder, Outcome, run};

#[global_allocator]
static COUNTING: Counting = Counting;

fn configuration(bytes: &[u8]) -> Outcome {
    let Ok(text) = std::str::from_utf8(bytes) else { return Outcome::Refused };
    let Ok(config) = NodeConfig::parse(text) else { return Outcome::Refused };
    match toml::to_string(&config).map(|text| NodeConfig::parse(&text)) {
        Ok(Ok(again)) if again == config => Outcome::Accepted,
        other => Outcome::Broken(format!("{config:?} comes back as {other:?}")),
    }
}

fn configurations() -> Vec<Vec<u8>> {
    let written = toml::to_string(&NodeConfig::default()).unwrap();
    let short = "name = \"a\"\nlisten = \"10.0.0.1\"\ndisks = [\"x\", \"y\"]\nfailure_domain = [\"rack-2\"]\njournal_mib = 64\n";
    vec![written.into_bytes(), short.as_bytes().to_vec(), Vec::new()]
}

fn identity(bytes: &[u8]) -> Outcome {
    NodeIdentity::parse(bytes).map_or(Outcome::Refused, |_| Outcome::Accepted)
}

fn identities() -> Vec<Vec<u8>> {
    let text = "{\"version\":1,\"cluster\":\"01234567-89ab-cdef-0011-223344556677\",\"node\":3,\"incarnation\":9,\
                \"control_addresses\":[\"10.0.0.1:7400\",\"[fd00::1]:7400\"]}";
    vec![text.as_bytes().to_vec()]
}

#[test]
fn decoders_of_a_nodes_files_keep_their_rules_whatever_the_bytes_are() {
    let limit_bytes = |input: usize| (256 << 10) + 256 * input;
    run(
        env!("CARGO_MANIFEST_DIR"),
        &[
            Decoder { name: "node-toml", run: configuration, examples: configurations, limit_bytes, cost: 6 },
            Decoder { name: "node-json", run: identity, examples: identities, limit_bytes, cost: 2 },
        ],
    );
}
