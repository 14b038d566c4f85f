//! Encodings of HTTP and JSON Web Tokens that several modules read or write.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

/// Compresses with gzip (RFC 1952). In memory that does not fail.
pub fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let room = Vec::with_capacity(bytes.len() / 8);
    let mut encoder = flate2::write::GzEncoder::new(room, flate2::Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// The quality of a value in an `Accept` or `Accept-Encoding` header (RFC 9110 section 12.4.2): 0 if it is not listed, 1 if it has no weight.
pub fn quality(header: &str, wanted: &str) -> f32 {
    let listed = header.split(',').filter_map(|element| {
        let mut parts = element.split(';').map(str::trim);
        let is_wanted = parts.next()?.eq_ignore_ascii_case(wanted);
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        is_wanted.then(|| weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0)))
    });
    listed.fold(0.0, f32::max)
}

/// The claims of a JSON Web Token (RFC 7519 section 3), whose signature is not verified.
pub fn unverified_claims(token: &str) -> Option<Value> {
    let payload = token.split('.').nth(1)?;
    let bytes = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    serde_json::from_slice::<Value>(&bytes).ok().filter(Value::is_object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qualities() {
        for (header, expected) in [
            ("gzip", 1.0),
            ("br, GZIP;q=0.5", 0.5),
            ("gzip; q=0", 0.0),
            ("gzip;q=high", 0.0),
            ("gzip;q=0.2, gzip;q=0.7", 0.7),
            ("identity", 0.0),
            ("", 0.0),
        ] {
            assert!((quality(header, "gzip") - expected).abs() < f32::EPSILON, "{header}");
        }
    }
}
