//! Requests in many spellings as data (`spellings.txt`): for tests that what is judged is what a workload gets, of the
//! gate and of doors.

/// One line of the corpus.
#[derive(Debug, Clone, Copy)]
pub struct Spelling {
    /// `method`, `path`, `host` or `fields`.
    pub part: &'static str,
    /// As a client may send it.
    pub sent: &'static str,
    /// The canonical form, or the status of the refusal.
    pub becomes: Result<&'static str, u16>,
}

impl Spelling {
    /// The request that differs from a plain one in this part.
    #[must_use]
    pub fn request(&self) -> Sent {
        let mut sent = Sent {
            method: "GET",
            target: "/",
            host: "h",
            fields: Vec::new(),
        };
        match self.part {
            "method" => sent.method = self.sent,
            "path" => sent.target = self.sent,
            "host" => sent.host = self.sent,
            _ => {
                sent.fields = self
                    .sent
                    .split(" | ")
                    .filter_map(|field| field.split_once(": "))
                    .collect();
            }
        }
        sent
    }
}

/// A request to be sent.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Method.
    pub method: &'static str,
    /// Path and query.
    pub target: &'static str,
    /// Host and port.
    pub host: &'static str,
    /// Further fields.
    pub fields: Vec<(&'static str, &'static str)>,
}

impl Sent {
    /// As a request of HTTP/1.1.
    #[must_use]
    pub fn http1(&self) -> String {
        let fields = self
            .fields
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"));
        let fields: String = fields.collect();
        format!(
            "{} {} HTTP/1.1\r\nHost: {}\r\n{fields}\r\n",
            self.method, self.target, self.host
        )
    }
}

/// The whole corpus.
#[must_use]
pub fn all() -> Vec<Spelling> {
    let lines = include_str!("spellings.txt").lines();
    let lines = lines.filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .filter_map(|line| {
            let mut parts = line.split('\t');
            let (part, sent, becomes) = (parts.next()?, parts.next()?, parts.next()?);
            let becomes = becomes.parse().map_or(Ok(becomes), Err);
            Some(Spelling { part, sent, becomes })
        })
        .collect()
}
