//! The mail server as `[mail] url` names it, and how much its connection is to be trusted. Pure.
//!
//! | url | TLS |
//! |---|---|
//! | `smtps://host` | from the start, checked (port 465) |
//! | `smtp://user@host` with a password, or `smtp://host/?tls=required` | STARTTLS or nothing, checked (port 587) |
//! | `smtp://host` | STARTTLS where offered (port 25), not checked: whoever could show a false certificate could as well withhold the offer |

/// How the connection is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protection {
    /// TLS before the first word.
    FromTheStart,
    /// STARTTLS or no mail.
    Required,
    /// STARTTLS where it is offered.
    WhereOffered,
}

/// A mail server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    /// Name or address.
    pub(super) host: String,
    /// Port.
    pub(super) port: u16,
    /// Whom to log in as, where there is a password.
    pub(super) user: Option<String>,
    /// How the connection is protected.
    pub(super) protection: Protection,
}

impl Server {
    /// Reads `url`; `login` says whether there is a password. `None` for what the configuration would have refused.
    pub(super) fn parse(url: &str, login: bool) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let authority = rest.split('/').next()?;
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(percent_decoded(user)?), place),
            None => (None, authority),
        };
        let (host, port) = match place.rsplit_once(':').filter(|_| !place.ends_with(']')) {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (place, None),
        };
        let user = user.filter(|user| login && !user.is_empty());
        let required = user.is_some() || query.split('&').any(|pair| pair == "tls=required");
        let (protection, usual) = match scheme {
            "smtps" => (Protection::FromTheStart, 465),
            "smtp" if required => (Protection::Required, 587),
            "smtp" => (Protection::WhereOffered, 25),
            _ => return None,
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        (!host.is_empty()).then_some(Self { host, port: port.unwrap_or(usual), user, protection })
    }
}

/// `alerts%40example.com` is how an address is written in front of an `@`.
fn percent_decoded(text: &str) -> Option<String> {
    let mut pieces = text.split('%');
    let mut bytes = pieces.next()?.as_bytes().to_vec();
    for piece in pieces {
        let (hex, rest) = piece.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(hex, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, login: bool, expected: Option<(&str, u16, Option<&str>, Protection)>) {
        let expected = expected.map(|(host, port, user, protection)| Server {
            host: host.to_owned(),
            port,
            user: user.map(str::to_owned),
            protection,
        });
        assert_eq!(Server::parse(url, login), expected, "{url}");
    }

    #[test]
    fn servers() {
        use Protection::{FromTheStart, Required, WhereOffered};
        check("smtps://a@mail.example:465", true, Some(("mail.example", 465, Some("a"), FromTheStart)));
        check(
            "smtps://a%40b.example@mail.example",
            true,
            Some(("mail.example", 465, Some("a@b.example"), FromTheStart)),
        );
        check("smtps://a@b.example@mail.example", true, Some(("mail.example", 465, Some("a@b.example"), FromTheStart)));
        check("smtp://127.0.0.1:2525", false, Some(("127.0.0.1", 2525, None, WhereOffered)));
        check("smtp://[::1]:2525/", false, Some(("::1", 2525, None, WhereOffered)));
        check("smtp://[::1]", false, Some(("::1", 25, None, WhereOffered)));
        check("smtp://mail.example/?tls=required", false, Some(("mail.example", 587, None, Required)));
        // A password is never sent in the clear.
        check("smtp://a@mail.example", true, Some(("mail.example", 587, Some("a"), Required)));
        check("smtp://a@mail.example", false, Some(("mail.example", 25, None, WhereOffered)));
        for bad in ["", "mail.example", "http://mail.example", "smtp://", "smtp://a:x", "smtp://%zz@a"] {
            check(bad, false, None);
        }
    }
}
