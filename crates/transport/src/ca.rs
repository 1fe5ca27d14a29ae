//! The cluster's certificate authority and the credentials it issues.
//!
//! Guarantees: a certificate binds a key to exactly one [`PeerIdentity`]; only nodes may act as servers; private keys
//! of members never leave the process that made them (the authority signs requests).
//!
//! Certificates do not expire: a wall clock decides nothing in Weft, and a cluster whose clocks jumped must still talk
//! to itself. A member is shut out by removing its node or striking its session, which takes effect at once.

use crate::durable::replace_secret_file;
use crate::identity::PeerIdentity;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use weft_types::ClusterId;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What certificates are checked against instead of a wall clock: a moment within the validity of all of them.
pub(crate) const CHECKED_AT: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(2_000_000_000));

#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error("certificate: {0}")]
    Certificate(String),
    #[error("the signing request is not valid: {0}")]
    Request(String),
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("{path} does not hold an authority, a certificate and a key")]
    Incomplete { path: PathBuf },
    #[error("the certificate does not belong to the key it came for")]
    NotOurKey,
    #[error("the certificate was not issued by the authority it came with")]
    NotOfAuthority,
}

impl From<rcgen::Error> for CaError {
    fn from(error: rcgen::Error) -> Self {
        Self::Certificate(error.to_string())
    }
}

/// The cluster's authority: its key and its certificate. Kept in the cluster's metadata, so that any node can sign.
#[derive(Clone)]
pub struct Authority {
    cluster: ClusterId,
    certificate: CertificateDer<'static>,
    key_pkcs8: Vec<u8>,
}

impl Authority {
    /// A new authority with a new key.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn create(cluster: ClusterId) -> Result<Self, CaError> {
        let key = KeyPair::generate()?;
        let certificate = Self::parameters(cluster).self_signed(&key)?.der().clone();
        Ok(Self { cluster, certificate, key_pkcs8: key.serialize_der() })
    }

    /// From the parts that [`Self::certificate`] and [`Self::key`] gave.
    ///
    /// # Errors
    /// When the key is none, or is not that of the certificate.
    pub fn load(cluster: ClusterId, certificate: &[u8], key: &[u8]) -> Result<Self, CaError> {
        let pair = KeyPair::try_from(key)?;
        if public_key_of(certificate)? != pair.public_key_raw() {
            return Err(CaError::NotOurKey);
        }
        let certificate = CertificateDer::from(certificate.to_vec());
        Ok(Self { cluster, certificate, key_pkcs8: key.to_vec() })
    }

    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// DER.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// PKCS #8, DER. A secret of the cluster.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key_pkcs8
    }

    /// What a join token pins.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        fingerprint(&self.certificate)
    }

    /// Certificate in DER for the key of a signing request. Nothing but the key is taken from the request; who its
    /// holder is, is the caller's decision.
    ///
    /// # Errors
    /// When the request is not well-formed or not signed by its own key.
    pub fn sign(&self, signing_request: &[u8], identity: &PeerIdentity) -> Result<Vec<u8>, CaError> {
        let der = CertificateSigningRequestDer::from(signing_request.to_vec());
        let request = CertificateSigningRequestParams::from_der(&der).map_err(|e| CaError::Request(e.to_string()))?;
        let certificate = leaf_parameters(identity)?.signed_by(&request.public_key, &self.issuer()?)?;
        Ok(certificate.der().to_vec())
    }

    /// Key and certificate in one step, for a member that is set up on this machine.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn issue(&self, identity: &PeerIdentity) -> Result<Credentials, CaError> {
        let key = MemberKey::generate()?;
        let certificate = self.sign(&key.signing_request()?, identity)?;
        key.into_credentials(&certificate, &self.certificate)
    }

    /// A certificate that the authority would never issue: the right to serve, for whom it is not meant.
    #[cfg(test)]
    pub(crate) fn issue_wrongly(&self, identity: &PeerIdentity) -> Credentials {
        let key = KeyPair::generate().unwrap();
        let mut parameters = leaf_parameters(identity).unwrap();
        parameters.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        let certificate = parameters.signed_by(&key, &self.issuer().unwrap()).unwrap();
        Credentials::new(&self.certificate, certificate.der(), key.serialize_der()).unwrap()
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, CaError> {
        let key = KeyPair::try_from(self.key_pkcs8.as_slice())?;
        Ok(Issuer::new(Self::parameters(self.cluster), key))
    }

    fn parameters(cluster: ClusterId) -> CertificateParams {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = name_of(&format!("weft cluster {cluster}"));
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        parameters.not_before = date_time_ymd(2000, 1, 1);
        parameters.not_after = date_time_ymd(4000, 1, 1);
        parameters
    }
}

fn leaf_parameters(identity: &PeerIdentity) -> Result<CertificateParams, CaError> {
    let text = identity.to_string();
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = name_of(text.split('.').next().unwrap_or_default());
    parameters.subject_alt_names = vec![SanType::DnsName(text.as_str().try_into()?)];
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if identity.as_node().is_some() {
        parameters.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    parameters.not_before = date_time_ymd(2000, 1, 1);
    parameters.not_after = date_time_ymd(4000, 1, 1);
    Ok(parameters)
}

fn name_of(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Weft");
    name.push(DnType::CommonName, common_name);
    name
}

/// A private key that waits for its certificate.
pub struct MemberKey(KeyPair);

impl MemberKey {
    /// # Errors
    /// When no key can be made.
    pub fn generate() -> Result<Self, CaError> {
        Ok(Self(KeyPair::generate()?))
    }

    /// A signing request in DER. It proves that its sender has the key, and says nothing else.
    ///
    /// # Errors
    /// When the key cannot sign.
    pub fn signing_request(&self) -> Result<Vec<u8>, CaError> {
        Ok(CertificateParams::default().serialize_request(&self.0)?.der().to_vec())
    }

    /// # Errors
    /// When the certificate is for another key, names no peer of a cluster, or was not issued by the authority.
    pub fn into_credentials(self, certificate: &[u8], authority: &[u8]) -> Result<Credentials, CaError> {
        Credentials::new(authority, certificate, self.0.serialize_der())
    }
}

/// What a member needs to prove who it is and to check others.
pub struct Credentials {
    pub(crate) authority: CertificateDer<'static>,
    pub(crate) certificate: CertificateDer<'static>,
    key_pkcs8: Vec<u8>,
    identity: PeerIdentity,
}

impl Clone for Credentials {
    fn clone(&self) -> Self {
        Self {
            authority: self.authority.clone(),
            certificate: self.certificate.clone(),
            key_pkcs8: self.key_pkcs8.clone(),
            identity: self.identity.clone(),
        }
    }
}

impl std::fmt::Debug for Credentials {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("identity", &self.identity.to_string()).finish_non_exhaustive()
    }
}

impl Credentials {
    fn new(authority: &[u8], certificate: &[u8], key_pkcs8: Vec<u8>) -> Result<Self, CaError> {
        let identity = identity_of(certificate)?;
        let key = KeyPair::try_from(key_pkcs8.as_slice())?;
        if public_key_of(certificate)? != key.public_key_raw() {
            return Err(CaError::NotOurKey);
        }
        let (_, leaf) = X509Certificate::from_der(certificate).map_err(malformed)?;
        let (_, root) = X509Certificate::from_der(authority).map_err(malformed)?;
        leaf.verify_signature(Some(root.public_key())).map_err(|_| CaError::NotOfAuthority)?;
        Ok(Self {
            authority: CertificateDer::from(authority.to_vec()),
            certificate: CertificateDer::from(certificate.to_vec()),
            key_pkcs8,
            identity,
        })
    }

    #[must_use]
    pub fn identity(&self) -> &PeerIdentity {
        &self.identity
    }

    /// The authority's certificate in DER.
    #[must_use]
    pub fn authority(&self) -> &[u8] {
        &self.authority
    }

    /// Writes all three parts to one file, mode 0600, so that a crash cannot leave a key beside a foreign certificate.
    ///
    /// # Errors
    /// When the file cannot be written durably.
    pub fn save(&self, path: &Path) -> Result<(), CaError> {
        let mut text = String::new();
        push_pem(&mut text, "CERTIFICATE", &self.certificate);
        push_pem(&mut text, "CERTIFICATE", &self.authority);
        push_pem(&mut text, "PRIVATE KEY", &self.key_pkcs8);
        replace_secret_file(path, text.as_bytes()).map_err(|source| CaError::File { path: path.to_owned(), source })
    }

    /// # Errors
    /// When the file cannot be read or its parts do not belong together.
    pub fn load(path: &Path) -> Result<Self, CaError> {
        let text = std::fs::read(path).map_err(|source| CaError::File { path: path.to_owned(), source })?;
        Self::parse(&text)?.ok_or_else(|| CaError::Incomplete { path: path.to_owned() })
    }

    /// `None`: a part is missing.
    pub(crate) fn parse(text: &[u8]) -> Result<Option<Self>, CaError> {
        let mut certificates = CertificateDer::pem_slice_iter(text);
        let mut next = || certificates.next().and_then(Result::ok);
        let (Some(certificate), Some(authority)) = (next(), next()) else { return Ok(None) };
        let Ok(key) = PrivatePkcs8KeyDer::from_pem_slice(text) else { return Ok(None) };
        Self::new(&authority, &certificate, key.secret_pkcs8_der().to_vec()).map(Some)
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key_pkcs8.clone()))
    }

    /// A secret that stays the same over restarts, for `purpose`.
    pub(crate) fn derive_secret(&self, purpose: &str) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("weft 2025 member key derived secrets v1");
        hasher.update(purpose.as_bytes()).update(&[0]).update(&self.key_pkcs8);
        *hasher.finalize().as_bytes()
    }
}

/// BLAKE3 of a certificate in DER.
#[must_use]
pub fn fingerprint(certificate: &[u8]) -> [u8; 32] {
    *blake3::hash(certificate).as_bytes()
}

fn malformed<E: std::fmt::Debug>(error: E) -> CaError {
    CaError::Certificate(format!("malformed: {error:?}"))
}

fn public_key_of(certificate: &[u8]) -> Result<Vec<u8>, CaError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(malformed)?;
    Ok(parsed.public_key().subject_public_key.data.to_vec())
}

/// Whom a certificate names. It must be exactly one name of the right form.
///
/// # Errors
/// When it is not.
pub fn identity_of(certificate: &[u8]) -> Result<PeerIdentity, CaError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(malformed)?;
    let names = parsed
        .subject_alternative_name()
        .map_err(|e| CaError::Certificate(e.to_string()))?
        .ok_or_else(|| CaError::Certificate("names nobody".to_owned()))?;
    match names.value.general_names.as_slice() {
        [GeneralName::DNSName(name)] => name.parse().map_err(|e| CaError::Certificate(format!("{e}"))),
        _ => Err(CaError::Certificate("has to hold exactly one DNS name".to_owned())),
    }
}

/// RFC 7468 text of DER bytes.
fn push_pem(out: &mut String, label: &str, der: &[u8]) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let _ = writeln!(out, "-----BEGIN {label}-----");
    for line in der.chunks(48) {
        for group in line.chunks(3) {
            let byte = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
            let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
            for i in 0..4 {
                let digit = ALPHABET[(bits >> (18 - 6 * i) & 63) as usize];
                out.push(if i <= group.len() { char::from(digit) } else { '=' });
            }
        }
        out.push('\n');
    }
    let _ = writeln!(out, "-----END {label}-----");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::PeerName;
    use weft_types::NodeId;

    #[test]
    fn credentials_read_back_from_their_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identity.pem");
        let authority = Authority::create(ClusterId(5)).unwrap();
        let credentials = authority.issue(&PeerIdentity::node(ClusterId(5), NodeId(3))).unwrap();
        credentials.save(&path).unwrap();
        let loaded = Credentials::load(&path).unwrap();
        assert_eq!(loaded.identity(), credentials.identity());
        assert_eq!(loaded.certificate, credentials.certificate);
        assert_eq!(loaded.authority(), authority.certificate());
        assert_eq!(loaded.key_pkcs8, credentials.key_pkcs8);
        std::fs::write(&path, "nothing").unwrap();
        assert!(matches!(Credentials::load(&path), Err(CaError::Incomplete { .. })));
    }

    #[test]
    fn an_authority_reads_back_from_its_parts_and_signs_the_same_way() {
        let cluster = ClusterId(5);
        let authority = Authority::create(cluster).unwrap();
        let again = Authority::load(cluster, authority.certificate(), authority.key()).unwrap();
        let key = MemberKey::generate().unwrap();
        let name = PeerIdentity::client(cluster, PeerName::new("hv").unwrap());
        let certificate = again.sign(&key.signing_request().unwrap(), &name).unwrap();
        let credentials = key.into_credentials(&certificate, authority.certificate()).unwrap();
        assert_eq!(credentials.identity(), &name);
        let other = Authority::create(cluster).unwrap();
        assert!(matches!(Authority::load(cluster, authority.certificate(), other.key()), Err(CaError::NotOurKey)));
    }

    #[test]
    fn a_certificate_for_another_key_or_of_another_authority_is_refused() {
        let cluster = ClusterId(5);
        let (one, two) = (Authority::create(cluster).unwrap(), Authority::create(cluster).unwrap());
        let name = PeerIdentity::node(cluster, NodeId(1));
        let (mine, other) = (MemberKey::generate().unwrap(), MemberKey::generate().unwrap());
        let certificate = one.sign(&other.signing_request().unwrap(), &name).unwrap();
        assert!(matches!(mine.into_credentials(&certificate, one.certificate()), Err(CaError::NotOurKey)));
        let certificate = one.sign(&other.signing_request().unwrap(), &name).unwrap();
        assert!(matches!(other.into_credentials(&certificate, two.certificate()), Err(CaError::NotOfAuthority)));
    }

    #[test]
    fn only_certificates_of_nodes_may_be_used_by_a_server() {
        let cluster = ClusterId(5);
        let authority = Authority::create(cluster).unwrap();
        let may_serve = |identity: &PeerIdentity| {
            let certificate = authority.issue(identity).unwrap().certificate;
            let (_, parsed) = X509Certificate::from_der(&certificate).unwrap();
            parsed.extended_key_usage().unwrap().unwrap().value.server_auth
        };
        assert!(may_serve(&PeerIdentity::node(cluster, NodeId(1))));
        assert!(!may_serve(&PeerIdentity::client(cluster, PeerName::new("hv").unwrap())));
        assert!(!may_serve(&PeerIdentity::admin(cluster, PeerName::new("root").unwrap())));
    }

    #[test]
    fn a_signing_request_whose_signature_is_broken_is_refused() {
        let authority = Authority::create(ClusterId(5)).unwrap();
        let mut request = MemberKey::generate().unwrap().signing_request().unwrap();
        let last = request.len() - 1;
        request[last] ^= 1;
        let refused = authority.sign(&request, &PeerIdentity::node(ClusterId(5), NodeId(1)));
        assert!(matches!(refused, Err(CaError::Request(_))));
    }
}
