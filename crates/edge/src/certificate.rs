//! What is said of a client's certificate: names as RFC 4514 writes them, in which no value can pass for another.

use std::fmt::Write as _;

use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use suijuris_gate::tls::Certificate;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// Longest name that is told, bytes: none that is in use comes near it.
const MAX_NAME: usize = 2_048;

/// Attributes that RFC 4514 has short names for, by their object identifiers.
const SHORT: [(&str, &str); 9] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
];

/// A certificate that was verified; none where it says of itself more than anybody reads.
pub(crate) fn read(certificate: &CertificateDer<'_>) -> Option<Certificate> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let mut fingerprint = String::with_capacity(64);
    for byte in Sha256::digest(certificate.as_ref()) {
        // Writing to a String cannot fail.
        let _infallible = write!(fingerprint, "{byte:02x}");
    }
    Some(Certificate {
        name: name(&parsed),
        subject: distinguished(parsed.subject())?,
        issuer: distinguished(parsed.issuer())?,
        fingerprint,
        not_after_ms: parsed.validity().not_after.timestamp().checked_mul(1_000)?,
    })
}

/// Its first DNS name, or the common name of its subject.
fn name(parsed: &X509Certificate<'_>) -> Option<String> {
    let alternative = parsed.subject_alternative_name().ok().flatten();
    let dns = alternative.and_then(|found| {
        found.value.general_names.iter().find_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        })
    });
    let common = || {
        let name = parsed.subject().iter_common_name().next()?;
        Some(name.as_str().ok()?.to_owned())
    };
    dns.or_else(common)
}

/// A distinguished name as RFC 4514 §2 writes it: the last part first.
fn distinguished(name: &X509Name<'_>) -> Option<String> {
    let parts: Vec<_> = name.iter_rdn().collect();
    let mut text = String::new();
    for (index, part) in parts.iter().rev().enumerate() {
        if index > 0 {
            text.push(',');
        }
        for (index, attribute) in part.iter().enumerate() {
            if index > 0 {
                text.push('+');
            }
            write_attribute(attribute, &mut text);
        }
    }
    (text.len() <= MAX_NAME).then_some(text)
}

fn write_attribute(attribute: &AttributeTypeAndValue<'_>, text: &mut String) {
    let identifier = attribute.attr_type().to_id_string();
    let short = SHORT.iter().find(|(id, _)| *id == identifier);
    text.push_str(short.map_or(&identifier, |(_, short)| short));
    text.push('=');
    match (short, attribute.as_str()) {
        (Some(_), Ok(value)) => write_value(value, text),
        // What is not known to be text is written as its bytes.
        _ => {
            text.push('#');
            let value = attribute.attr_value();
            let encoded = der(value.header.tag().0, value.data);
            for byte in encoded {
                let _infallible = write!(text, "{byte:02x}");
            }
        }
    }
}

/// A value whose tag fits into one byte, encoded again; longer ones are not told.
fn der(tag: u32, data: &[u8]) -> Vec<u8> {
    let mut out = vec![u8::try_from(tag & 0x1f).unwrap_or_default()];
    match u8::try_from(data.len()) {
        Ok(short @ 0..=127) => out.push(short),
        Ok(long) => out.extend([0x81, long]),
        Err(_) => {
            let length = data.len().to_be_bytes();
            let length = length
                .get(length.iter().take_while(|byte| **byte == 0).count()..)
                .unwrap_or_default();
            out.push(0x80 | u8::try_from(length.len()).unwrap_or_default());
            out.extend(length);
        }
    }
    out.extend(data);
    out
}

/// A value with everything escaped that could be read as the end of it, or would move a terminal.
fn write_value(value: &str, text: &mut String) {
    let last = value.chars().count().saturating_sub(1);
    for (index, character) in value.chars().enumerate() {
        match character {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => text.extend(['\\', character]),
            '#' | ' ' if index == 0 => text.extend(['\\', character]),
            ' ' if index == last => text.extend(['\\', character]),
            _ if character.is_control() => {
                let mut bytes = [0; 4];
                for byte in character.encode_utf8(&mut bytes).bytes() {
                    let _infallible = write!(text, "\\{byte:02X}");
                }
            }
            _ => text.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair};

    use super::*;

    fn of(parts: &[(DnType, &str)], names: &[&str]) -> Certificate {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in parts {
            params
                .distinguished_name
                .push(kind.clone(), DnValue::Utf8String((*value).to_owned()));
        }
        let key = KeyPair::generate().unwrap();
        read(params.self_signed(&key).unwrap().der()).unwrap()
    }

    #[test]
    fn names_are_written_so_that_no_value_passes_for_another() {
        let check = |value: &str, expect: &str| {
            let found = of(
                &[(DnType::OrganizationName, "Acme"), (DnType::CommonName, value)],
                &[],
            );
            assert_eq!(found.subject, format!("CN={expect},O=Acme"), "{value:?}");
            assert_eq!(found.issuer, found.subject);
            assert_eq!(found.name.as_deref(), Some(value));
        };
        check("billing", "billing");
        check("billing,O=Bank", "billing\\,O=Bank");
        check("a+b", "a\\+b");
        check(" a ", "\\ a\\ ");
        check("#1", "\\#1");
        check("a\u{1b}[2J", "a\\1B[2J");
        check("Zoë", "Zoë");
        check("\\", "\\\\");
    }

    #[test]
    fn the_first_dns_name_is_the_name_and_bytes_are_hashed_whole() {
        let found = of(&[(DnType::CommonName, "x")], &["a.example", "b.example"]);
        assert_eq!(found.name.as_deref(), Some("a.example"));
        assert_eq!(found.fingerprint.len(), 64);
        assert!(
            found
                .fingerprint
                .bytes()
                .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        );
        assert!(found.not_after_ms > 0);
    }

    #[test]
    fn attributes_without_a_short_name_are_their_bytes() {
        // An e-mail address, 1.2.840.113549.1.9.1.
        let kind = DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]);
        let found = of(&[(kind, "a,b")], &[]);
        assert_eq!(found.subject, "1.2.840.113549.1.9.1=#0c03612c62");
        assert_eq!(found.name, None);
    }
}
