//! What may be proposed, and by what sort of principal.

use serde::{Deserialize, Serialize};

/// Why a text is not one of a list of words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not one of {expected}")]
pub struct WordError {
    found: String,
    expected: String,
}

impl WordError {
    pub(super) fn new(found: &str, words: impl Iterator<Item = &'static str>) -> Self {
        Self {
            found: found.to_owned(),
            expected: words.collect::<Vec<_>>().join(", "),
        }
    }
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$word_doc:meta])* $word:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$word_doc])* #[serde(rename = $text)] $word,)* }

        impl $name {
            /// Every word, in order.
            pub const ALL: &[Self] = &[$(Self::$word,)*];

            /// The word used in rules, records and JSON.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$word => $text,)* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::governance::WordError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let found = Self::ALL.iter().copied().find(|word| word.as_str() == text);
                found.ok_or_else(|| $crate::governance::WordError::new(text, Self::ALL.iter().map(|word| word.as_str())))
            }
        }
    };
}

pub(super) use words;

words! {
    /// A transition or access that somebody proposes and the rules judge.
    Action {
        /// Become active.
        Wake = "wake",
        /// Stay active.
        Remain = "remain",
        /// Let one request or connection through to the workload.
        Admit = "admit",
        /// Become dormant because somebody asks.
        Sleep = "sleep",
        /// Continue on another host.
        Migrate = "migrate",
        /// Fork a child object.
        Fork = "fork",
        /// Write memory.
        Mutate = "mutate",
        /// Change the bundle.
        Amend = "amend",
        /// End for good.
        Terminate = "terminate",
        /// Read a memory field.
        Read = "read",
        /// Found an instance of a class.
        Instantiate = "instantiate",
    }
}

words! {
    /// The sort of a principal; the name of its entity type in rules.
    PrincipalKind {
        /// Whoever sent a request, known by a verified token or not at all.
        Caller = "Caller",
        /// The host and its scheduler.
        Host = "Host",
        /// A timer that the bundle declares.
        Timer = "Timer",
        /// Another object.
        Peer = "Peer",
        /// The keys named at inception.
        Controller = "Controller",
        /// The program inside the machine.
        Workload = "Workload",
        /// The object itself: it proposes its own end or its own move.
        Own = "Self",
    }
}

words! {
    /// What made somebody propose.
    TriggerKind {
        /// A request arrived.
        Request = "request",
        /// A message arrived.
        Message = "message",
        /// A timer fell due.
        Timer = "timer",
        /// A memory field changed from outside.
        Memory = "memory",
        /// A person or program asked for it.
        Manual = "manual",
        /// The machine was started by its host.
        Boot = "boot",
    }
}

words! {
    /// The protocol of a request or connection.
    Protocol {
        /// HTTP/1.0 and HTTP/1.1.
        Http1 = "http/1.1",
        /// HTTP/2.
        Http2 = "http/2",
        /// A WebSocket upgrade.
        Websocket = "websocket",
        /// A raw connection.
        Tcp = "tcp",
    }
}

impl Action {
    /// Whether rules may speak of this action by this sort of principal: requests come from callers alone, what belongs
    /// to an instance cannot ask for that instance, and of itself an object proposes its end and its move only.
    #[must_use]
    pub const fn applies_to(self, principal: PrincipalKind) -> bool {
        match self {
            Self::Admit => matches!(principal, PrincipalKind::Caller),
            Self::Instantiate => !matches!(
                principal,
                PrincipalKind::Timer | PrincipalKind::Workload | PrincipalKind::Own
            ),
            Self::Terminate | Self::Migrate => true,
            _ => !matches!(principal, PrincipalKind::Own),
        }
    }

    /// Whether rules may speak of this action: of founding instances only those of a class may.
    #[must_use]
    pub const fn is_of(self, class: bool) -> bool {
        class || !matches!(self, Self::Instantiate)
    }
}
