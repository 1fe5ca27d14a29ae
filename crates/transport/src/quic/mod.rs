//! QUIC: one UDP socket for everything in and out, mutual TLS 1.3, the lane over a quinn connection.

mod config;
mod endpoint;
mod lane;
mod tls;

pub use endpoint::{BindError, DEFAULT_MTU, Endpoint, EndpointConfig, MAX_MTU};

pub use config::STREAM_WINDOW_BYTES;
pub(crate) use config::bind_socket;
pub(crate) use tls::{join_client_tls, join_server_tls};

#[cfg(test)]
pub(crate) use testing::{TrustAnyServer, tests_only_client_tls, tests_only_source};

#[cfg(test)]
mod testing {
    //! Ways around our own checks, for tests that play a dishonest peer.

    use super::lane::QuicSource;
    use crate::ca::Credentials;
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

    pub(crate) fn tests_only_client_tls(credentials: &Credentials) -> rustls::ClientConfig {
        super::tls::member_client_tls(credentials).unwrap()
    }

    pub(crate) fn tests_only_source(stream: quinn::RecvStream) -> QuicSource {
        QuicSource(stream)
    }

    #[derive(Debug)]
    pub(crate) struct TrustAnyServer;

    impl ServerCertVerifier for TrustAnyServer {
        fn verify_server_cert(
            &self,
            _certificate: &CertificateDer<'_>,
            _intermediates: &[CertificateDer<'_>],
            _server_name: &ServerName<'_>,
            _ocsp_response: &[u8],
            _now: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _certificate: &CertificateDer<'_>,
            _signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _message: &[u8],
            _certificate: &CertificateDer<'_>,
            _signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
        }
    }
}
