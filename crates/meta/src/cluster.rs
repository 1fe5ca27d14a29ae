//! The cluster itself: its birth, nodes that join, voters, join tokens, the event list.

use crate::command::{CommandReply, NewNode, TokenHash};
use crate::keys;
use crate::records::{ClusterRecord, NodeEntry, TokenRecord};
use crate::txn::{Fault, Txn};
use std::collections::BTreeSet;
use weft_proto::admin::TokenRole;
use weft_types::limits::{MAX_LABEL_BYTES, MAX_NODES, MAX_REMOVED_NODES, MAX_TOKENS};
use weft_types::map::{NodeRecord, NodeState};
use weft_types::{ClusterId, ErrorKind, Incarnation, NodeId, StartId};

/// Longest failure domain, outermost label to innermost.
const MAX_DOMAIN_LABELS: usize = 8;
/// Longest text of an event.
const MAX_EVENT_BYTES: usize = 1024;

pub(crate) fn bootstrap(
    txn: &mut Txn<'_>,
    cluster: ClusterId,
    certificate: &[u8],
    key: &[u8],
    node: &NewNode,
) -> Result<CommandReply, Fault> {
    if txn.fetch::<ClusterRecord>(keys::CLUSTER)?.is_some() {
        return Err(ErrorKind::Exists.into());
    }
    let record = ClusterRecord {
        id: cluster,
        authority_certificate: certificate.to_vec(),
        authority_key: key.to_vec(),
        created: txn.at,
    };
    txn.put(keys::CLUSTER.to_vec(), &record)?;
    let id = add_node(txn, node, true)?;
    txn.note(id, format!("cluster {cluster} begins"))?;
    Ok(CommandReply::Joined { node: id, cluster })
}

pub(crate) fn join(txn: &mut Txn<'_>, node: &NewNode, token: Option<&TokenHash>) -> Result<CommandReply, Fault> {
    let cluster = cluster_id(txn)?;
    if let Some(token) = token {
        use_token(txn, token, TokenRole::Node)?;
    }
    let id = add_node(txn, node, false)?;
    txn.note(id, format!("node {id} ({}) joins", node.name))?;
    Ok(CommandReply::Joined { node: id, cluster })
}

fn cluster_id(txn: &Txn<'_>) -> Result<ClusterId, Fault> {
    let record: Option<ClusterRecord> = txn.fetch(keys::CLUSTER)?;
    Ok(record.ok_or_else(|| ErrorKind::Unavailable("the cluster is not initialised".to_owned()))?.id)
}

fn add_node(txn: &mut Txn<'_>, node: &NewNode, voter: bool) -> Result<NodeId, Fault> {
    check_label(&node.name, "a node name")?;
    if node.failure_domain.len() > MAX_DOMAIN_LABELS {
        return Err(ErrorKind::Invalid(format!("a failure domain has at most {MAX_DOMAIN_LABELS} labels")).into());
    }
    for label in &node.failure_domain {
        check_label(label, "a failure domain label")?;
    }
    let others: Vec<NodeEntry> = txn.all(keys::NODES)?;
    let removed = others.iter().filter(|other| other.record.state == NodeState::Removed).count();
    if others.len() - removed >= MAX_NODES {
        return Err(ErrorKind::Refused(format!("a cluster has at most {MAX_NODES} nodes")).into());
    }
    if removed > MAX_REMOVED_NODES {
        return Err(ErrorKind::Refused(format!("{MAX_REMOVED_NODES} nodes were removed from this cluster")).into());
    }
    let same_name = others.iter().find(|n| n.record.name == node.name && n.record.state != NodeState::Removed);
    if let Some(other) = same_name {
        let text = format!(
            "node {} is called {} already: remove it first, or choose another name",
            other.record.id, node.name
        );
        return Err(ErrorKind::Invalid(text).into());
    }
    let id = NodeId(txn.count_up(keys::LAST_NODE)?);
    let record = NodeRecord {
        id,
        name: node.name.clone(),
        incarnation: Incarnation(0),
        state: NodeState::Joined,
        control_address: node.control_address,
        data_address: node.data_address,
        failure_domain: node.failure_domain.clone(),
        voter,
    };
    txn.put(
        keys::node(id),
        &NodeEntry { record, registered_from: Incarnation(0), registered_start: StartId::default() },
    )?;
    txn.touch_map()?;
    Ok(id)
}

/// A name for tables, paths and certificates.
pub(crate) fn check_label(label: &str, what: &str) -> Result<(), ErrorKind> {
    if label.is_empty() {
        return Err(ErrorKind::Invalid(format!("{what} must not be empty")));
    }
    if label.len() > MAX_LABEL_BYTES {
        return Err(ErrorKind::Invalid(format!("{what} has at most {MAX_LABEL_BYTES} bytes, not {}", label.len())));
    }
    if label.contains('/') {
        return Err(ErrorKind::Invalid(format!("{what} must not contain '/'")));
    }
    if label.chars().any(char::is_control) {
        return Err(ErrorKind::Invalid(format!("{what} must not contain control characters")));
    }
    if label == "." || label == ".." || label.trim() != label {
        return Err(ErrorKind::Invalid(format!("{what} must not be '.' or '..', nor begin or end with a space")));
    }
    Ok(())
}

pub(crate) fn set_voters(txn: &mut Txn<'_>, voters: &BTreeSet<NodeId>) -> Result<CommandReply, Fault> {
    for mut entry in txn.all::<NodeEntry>(keys::NODES)? {
        let before = entry.clone();
        entry.record.voter = voters.contains(&entry.record.id);
        if entry.record.voter && entry.record.incarnation != Incarnation(0) {
            // Who votes was heard of, so it has learnt an incarnation, and comes with an empty store no more. Not always the
            // present one: it may have been killed before the answer to its last registration arrived.
            entry.registered_from = entry.registered_from.max(Incarnation(1));
        }
        if entry != before {
            txn.put(keys::node(entry.record.id), &entry)?;
            txn.touch_map()?;
        }
    }
    Ok(CommandReply::Done)
}

pub(crate) fn create_token(
    txn: &mut Txn<'_>,
    id: &str,
    hash: &TokenHash,
    role: TokenRole,
    name: &str,
    expires_at_seconds: i64,
) -> Result<CommandReply, Fault> {
    cluster_id(txn)?;
    check_label(id, "a token id")?;
    if name.len() > MAX_LABEL_BYTES || name.chars().any(char::is_control) {
        return Err(ErrorKind::Invalid("a token's name is too long or has control characters".to_owned()).into());
    }
    let tokens: Vec<TokenRecord> = txn.all(keys::TOKENS)?;
    if tokens.len() >= MAX_TOKENS {
        return Err(ErrorKind::Refused(format!("there are {MAX_TOKENS} tokens: revoke some")).into());
    }
    if tokens.iter().any(|t| t.id == id) || txn.fetch::<TokenRecord>(&keys::token(hash))?.is_some() {
        return Err(ErrorKind::Exists.into());
    }
    let record = TokenRecord { id: id.to_owned(), role, name: name.to_owned(), expires_at_seconds, used: false };
    txn.put(keys::token(hash), &record)?;
    Ok(CommandReply::Done)
}

pub(crate) fn consume_token(txn: &mut Txn<'_>, hash: &TokenHash, role: TokenRole) -> Result<CommandReply, Fault> {
    let cluster = cluster_id(txn)?;
    let name = use_token(txn, hash, role)?;
    Ok(CommandReply::TokenAccepted { cluster, name })
}

/// A token is good once, before its expiry, for its role. The refusal does not say which of these failed it.
fn use_token(txn: &mut Txn<'_>, hash: &TokenHash, role: TokenRole) -> Result<String, Fault> {
    let key = keys::token(hash);
    let found: Option<TokenRecord> = txn.fetch(&key)?;
    match found {
        Some(mut token) if !token.used && token.role == role && txn.at.seconds < token.expires_at_seconds => {
            token.used = true;
            txn.put(key, &token)?;
            Ok(token.name)
        }
        _ => Err(ErrorKind::Refused(
            "the token is unknown, used, expired or of another role: make a new one with `weft token create`"
                .to_owned(),
        )
        .into()),
    }
}

pub(crate) fn revoke_token(txn: &mut Txn<'_>, id: &str) -> Result<CommandReply, Fault> {
    use crate::view::View as _;
    for (key, bytes) in txn.scan(keys::TOKENS, &keys::after_prefix(keys::TOKENS), usize::MAX)? {
        let token: TokenRecord = crate::codec::decode(&key, &bytes)?;
        if token.id == id {
            txn.remove(key);
            return Ok(CommandReply::Done);
        }
    }
    Err(ErrorKind::NotFound.into())
}

pub(crate) fn note(txn: &mut Txn<'_>, node: NodeId, what: &str) -> Result<CommandReply, Fault> {
    let mut end = what.len().min(MAX_EVENT_BYTES);
    while !what.is_char_boundary(end) {
        end -= 1;
    }
    txn.note(node, what[..end].to_owned())?;
    Ok(CommandReply::Done)
}
