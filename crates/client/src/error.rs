//! Why a session could not be opened. Each is one sentence that says what to do.

use crate::identity::IdentityError;
use weft_transport::quic::BindError;
use weft_types::ErrorKind;

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("cannot open a socket: {0}")]
    Bind(#[from] BindError),
    #[error(
        "no node of the cluster answers as metadata leader: {0}; check that a majority of the nodes runs and can be reached"
    )]
    NoLeader(String),
    #[error("volume '{0}' does not exist; `weft volume list` shows those that do")]
    NoVolume(String),
    #[error("the cluster refused the session: {0}")]
    Refused(ErrorKind),
    #[error("{0}")]
    Protocol(String),
}
