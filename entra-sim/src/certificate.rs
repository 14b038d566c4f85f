//! The little of X.509 that the simulator reads from client certificates.

use aws_lc_rs::digest;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The first certificate of a PEM text.
pub(crate) fn certificate_der(pem: &str) -> Result<Vec<u8>, String> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map(|der| der.to_vec())
        .map_err(|e| format!("certificate_pem: {e}"))
}

/// SHA-1 of a certificate: its thumbprint in Entra.
pub(crate) fn thumbprint(der: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, der).as_ref().to_vec()
}

/// `notBefore` and `notAfter` of a DER certificate (RFC 5280, section 4.1).
pub(crate) fn validity(der: &[u8]) -> Option<(Timestamp, Timestamp)> {
    let (certificate, _) = expect(der, SEQUENCE)?;
    let (mut rest, _) = expect(certificate, SEQUENCE)?;
    if rest.first() == Some(&VERSION) {
        rest = expect(rest, VERSION)?.1;
    }
    // Serial number, signature algorithm and issuer come first.
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        rest = expect(rest, tag)?.1;
    }
    let (validity, _) = expect(rest, SEQUENCE)?;
    let (from, rest) = time(validity)?;
    let (until, _) = time(rest)?;
    Some((from, until))
}

fn time(der: &[u8]) -> Option<(Timestamp, &[u8])> {
    let (tag, value, rest) = element(der)?;
    let text = std::str::from_utf8(value).ok()?.strip_suffix('Z')?;
    let digits = match tag {
        // RFC 5280, section 4.1.2.5.1: two digits from 50 belong to the last century.
        UTC_TIME if text.get(..2)?.parse::<u8>().ok()? >= 50 => format!("19{text}"),
        UTC_TIME => format!("20{text}"),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let civil = DateTime::strptime("%Y%m%d%H%M%S", digits).ok()?;
    Some((civil.to_zoned(TimeZone::UTC).ok()?.timestamp(), rest))
}

/// The value of an element with this tag, and what follows the element.
fn expect(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    element(der).filter(|(found, _, _)| *found == tag).map(|(_, value, rest)| (value, rest))
}

/// Tag, value and the bytes behind the first element.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        ..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| (length << 8) | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (value, rest) = rest.split_at_checked(length)?;
    Some((tag, value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_validity_is_read_from_both_forms_of_time() {
        for (form, from, until) in [
            ("UTCTime", (2020, "2020-01-02T00:00:00Z"), (2049, "2049-01-02T00:00:00Z")),
            ("UTCTime of the last century", (1970, "1970-01-02T00:00:00Z"), (1999, "1999-01-02T00:00:00Z")),
            ("GeneralizedTime", (2050, "2050-01-02T00:00:00Z"), (4096, "4096-01-02T00:00:00Z")),
        ] {
            let mut parameters = rcgen::CertificateParams::new(vec!["client".to_owned()]).unwrap();
            parameters.not_before = rcgen::date_time_ymd(from.0, 1, 2);
            parameters.not_after = rcgen::date_time_ymd(until.0, 1, 2);
            let key = rcgen::KeyPair::generate().unwrap();
            let certificate = parameters.self_signed(&key).unwrap();
            let read = validity(certificate.der()).map(|(a, b)| (a.to_string(), b.to_string()));
            assert_eq!(read, Some((from.1.to_owned(), until.1.to_owned())), "{form}");
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_validity() {
        for (case, der) in [
            ("nothing", &[][..]),
            ("a length without its bytes", &[0x30, 0x05, 0x30]),
            ("a length of five bytes", &[0x30, 0x85, 1, 1, 1, 1, 1]),
            ("an empty sequence", &[0x30, 0x00]),
            ("a sequence of an empty sequence", &[0x30, 0x02, 0x30, 0x00]),
            ("text", b"certificate"),
        ] {
            assert_eq!(validity(der), None, "{case}");
        }
    }
}
