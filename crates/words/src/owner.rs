//! What owners sign, between its documents and core's types. Both have one JSON form.

use suijuris_api::owner::{Approval, SignedRequest};
use suijuris_core::lineage;
use suijuris_core::owner_request::{self, OwnerRequestError};

/// The request in a document.
///
/// # Errors
/// [`OwnerRequestError::Unreadable`].
pub fn read(document: &SignedRequest) -> Result<owner_request::SignedRequest, OwnerRequestError> {
    let read = serde_json::to_value(document).and_then(serde_json::from_value);
    read.map_err(|_unreadable| OwnerRequestError::Unreadable)
}

/// The document of a request.
///
/// # Errors
/// It has no JSON form, which no request of ours has.
pub fn document(request: &owner_request::SignedRequest) -> Result<SignedRequest, serde_json::Error> {
    serde_json::from_value(serde_json::to_value(request)?)
}

/// The approval in a document.
///
/// # Errors
/// Its key or its signature is none.
pub fn read_approval(document: &Approval) -> Result<lineage::Approval, serde_json::Error> {
    serde_json::from_value(serde_json::to_value(document)?)
}

/// The document of an approval.
#[must_use]
pub fn approval(approval: &lineage::Approval) -> Approval {
    Approval {
        key: approval.key.to_string(),
        sig: approval.sig.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use suijuris_core::governance::Action;
    use suijuris_core::id::{Digest, ObjectId, RecordId};
    use suijuris_core::key::SecretKey;
    use suijuris_core::lineage::Statement;
    use suijuris_core::owner_request::{Ask, Once, OwnerRequest, nobody};
    use suijuris_core::time::Timestamp;

    use super::*;

    #[test]
    fn what_owners_sign_reads_back_from_its_document() {
        let key = SecretKey::from_seed(&[7; 32]);
        for once in [Once::Nonce([3; 16]), Once::Head(RecordId::of(b"head"))] {
            let request = OwnerRequest {
                object: ObjectId::of(b"object"),
                ask: Ask::Write,
                content: Digest::of(b"content"),
                audience: nobody(),
                once,
                expires: Timestamp(1_000_000),
            };
            let signatures = vec![request.sign(&key).unwrap()];
            let signed = owner_request::SignedRequest { request, signatures };
            let document = document(&signed).unwrap();
            assert_eq!(read(&document).unwrap(), signed);
            let broken = SignedRequest {
                signatures: Vec::new(),
                ..document
            };
            assert!(
                read(&broken).unwrap().signatures.is_empty(),
                "verifying refuses it"
            );
        }
        let statement = Statement {
            object: ObjectId::of(b"object"),
            action: Action::Amend,
            content: Digest::of(b"content"),
        };
        let approved = statement.approve(&key).unwrap();
        assert_eq!(read_approval(&approval(&approved)).unwrap(), approved);
        let wrong = Approval {
            key: "x".to_owned(),
            sig: "y".to_owned(),
        };
        assert!(read_approval(&wrong).is_err());
    }
}
