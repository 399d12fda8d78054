//! What an owner here signs of an object that is to leave a daemon, and whom its key is sealed to.

use anyhow::Context as _;
use suijuris_api::daemon::Object;
use suijuris_api::owner::SignedRequest;
use suijuris_core::ObjectId;
use suijuris_core::owner_request::Ask;
use suijuris_custody::migrate::content;
use suijuris_custody::owner::no_content;

use crate::carrier::route;
use crate::here::{self, SigningContext};
use crate::server::Server;
use crate::{Usage, key_wrap, owner, terminal};

/// Whom a key is sealed to where nobody says otherwise.
pub(crate) const OWNER: &str = "owner";

/// What was signed: that it sleeps, and that it goes. Nothing where it is asked by the host.
#[derive(Debug, Default)]
pub(crate) struct Word {
    pub(crate) sleep: Option<Box<SignedRequest>>,
    pub(crate) signed: Option<Box<SignedRequest>>,
}

/// Signs that `object` sleeps and leaves for `place`, where an owner's key is here.
pub(crate) fn sign(server: &Server, object: &Object, ask: Ask, place: &str) -> anyhow::Result<Word> {
    let state = match server.get(&route(object, "/state")) {
        Ok(state) => state,
        Err(_unreadable) => {
            terminal::note(
                "sent as the host: the object's history cannot be read, so that nobody knows its owners",
            );
            return Ok(Word::default());
        }
    };
    let head = SigningContext::told(&state)?;
    let audience = server
        .daemon()?
        .server
        .parse()
        .context("the daemon names no key")?;
    let id: ObjectId = object.object.parse()?;
    let Some(signed) = here::sign(&head, ask, content(id, place), audience)? else {
        return Ok(Word::default());
    };
    let sleep = here::sign_quietly(&head, Ask::Sleep, no_content(), audience)?;
    let document = |signed| anyhow::Ok(Box::new(suijuris_words::owner::document(&signed)?));
    Ok(Word {
        sleep: sleep.map(document).transpose()?,
        signed: Some(document(signed)?),
    })
}

/// The recipients as a daemon takes them, which has no owner's key.
pub(crate) fn recipients(named: &[String]) -> anyhow::Result<Vec<String>> {
    let recipient = |name: &String| {
        if name != OWNER {
            return Ok(name.clone());
        }
        let none = || {
            Usage(
                "no owner's key is here to seal the object's key to: name one with SUIJURIS_OWNER_KEY, or a recipient with --seal-to"
                    .to_owned(),
            )
        };
        key_wrap::recipient_of(&owner::existing_key()?.ok_or_else(none)?)
    };
    named.iter().map(recipient).collect()
}
