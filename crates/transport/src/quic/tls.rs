//! TLS as Weft uses it: version 1.3 only, both sides with a certificate of the cluster's authority, no resumption (a
//! resumed session would skip the certificate check), and no wall clock (see [`crate::ca`]).

use crate::ca::{CHECKED_AT, Credentials, fingerprint, identity_of};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::Arc;

const MEMBERS: &[u8] = b"weft";
const JOINING: &[u8] = b"weft-join";

#[derive(Debug)]
struct FixedTime;

impl TimeProvider for FixedTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(CHECKED_AT)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn roots(authority: &CertificateDer<'static>) -> Result<Arc<RootCertStore>, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone())?;
    Ok(Arc::new(roots))
}

pub(crate) fn member_server_tls(credentials: &Credentials) -> Result<rustls::ServerConfig, Error> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(&credentials.authority)?, provider())
        .build()
        .map_err(|e| Error::General(e.to_string()))?;
    let builder = rustls::ServerConfig::builder_with_details(provider(), Arc::new(FixedTime))
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let chain = vec![credentials.certificate.clone()];
    let config = builder.with_client_cert_verifier(verifier).with_single_cert(chain, credentials.private_key())?;
    Ok(without_resumption(config, MEMBERS))
}

fn without_resumption(mut config: rustls::ServerConfig, protocol: &[u8]) -> rustls::ServerConfig {
    config.alpn_protocols = vec![protocol.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config
}

pub(crate) fn member_client_tls(credentials: &Credentials) -> Result<rustls::ClientConfig, Error> {
    let verifier = ClusterVerifier { roots: roots(&credentials.authority)?, provider: provider() };
    let mut config = rustls::ClientConfig::builder_with_details(provider(), Arc::new(FixedTime))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(vec![credentials.certificate.clone()], credentials.private_key())?;
    config.alpn_protocols = vec![MEMBERS.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Server side of the join endpoint: asks for no certificate and shows the authority's beside its own, so that the
/// joining process can check it against the fingerprint in its token.
pub(crate) fn join_server_tls(credentials: &Credentials) -> Result<rustls::ServerConfig, Error> {
    let builder = rustls::ServerConfig::builder_with_details(provider(), Arc::new(FixedTime))
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let chain = vec![credentials.certificate.clone(), credentials.authority.clone()];
    let config = builder.with_no_client_auth().with_single_cert(chain, credentials.private_key())?;
    Ok(without_resumption(config, JOINING))
}

/// Client side of the join endpoint: trusts whatever authority has the fingerprint, and nodes that it issued.
pub(crate) fn join_client_tls(authority_fingerprint: [u8; 32]) -> Result<rustls::ClientConfig, Error> {
    let verifier = PinnedVerifier { authority_fingerprint, provider: provider() };
    let mut config = rustls::ClientConfig::builder_with_details(provider(), Arc::new(FixedTime))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![JOINING.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Accepts a certificate that the authority issued to a node. Which node it has to be is checked with the hello, where
/// a mismatch can be reported in words.
fn verify_node(
    certificate: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &RootCertStore,
    provider: &CryptoProvider,
) -> Result<ServerCertVerified, Error> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    let algorithms = provider.signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, CHECKED_AT, algorithms)?;
    match identity_of(certificate) {
        Ok(identity) if identity.as_node().is_some() => Ok(ServerCertVerified::assertion()),
        _ => Err(CertificateError::NotValidForName.into()),
    }
}

#[derive(Debug)]
struct ClusterVerifier {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
struct PinnedVerifier {
    authority_fingerprint: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl PinnedVerifier {
    /// The pinned authority is the last of the chain.
    fn roots(&self, intermediates: &[CertificateDer<'_>]) -> Result<RootCertStore, Error> {
        let authority = intermediates.last().ok_or(CertificateError::UnknownIssuer)?;
        if fingerprint(authority) != self.authority_fingerprint {
            return Err(CertificateError::UnknownIssuer.into());
        }
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        Ok(roots)
    }
}

macro_rules! tls13_signatures_only {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _certificate: &CertificateDer<'_>,
            _signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(Error::General("TLS 1.2 is not spoken".to_owned()))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = &self.provider.signature_verification_algorithms;
            verify_tls13_signature(message, certificate, signature, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider.signature_verification_algorithms.supported_schemes()
        }
    };
}

impl ServerCertVerifier for ClusterVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        verify_node(certificate, intermediates, &self.roots, &self.provider)
    }

    tls13_signatures_only!();
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        verify_node(certificate, &[], &self.roots(intermediates)?, &self.provider)
    }

    tls13_signatures_only!();
}
