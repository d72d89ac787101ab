//! Without keys only this machine may ask, and a web page in its browser is not this machine.

use axum::http::{HeaderMap, HeaderName, header};

use crate::http::{ApiError, Code};

/// Refuses what a page of another origin sent (a form needs no permission to post), and names that only seem to be this
/// machine (DNS rebinding).
pub fn check(headers: &HeaderMap) -> Result<(), ApiError> {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let host = text(header::HOST);
    let foreign = |what: &str, given: &str| {
        let message = format!(
            "without keys only this machine is served, and {what} is {given:?}; the operator can list keys (auth.keys_file) or ask for none (auth.anonymous = true)"
        );
        Err(ApiError::new(Code::Forbidden, message))
    };
    match (host, text(header::ORIGIN)) {
        (Some(host), _) if !is_local(host) => foreign("the Host header", host),
        (host, Some(origin)) if origin.split_once("://").map(|(_, authority)| authority) != host => {
            foreign("the Origin header", origin)
        }
        _ => Ok(()),
    }
}

fn is_local(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        // The colons of an address in brackets are its own.
        Some((host, port)) if !port.ends_with(']') => host,
        _ => authority,
    };
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderMap;

    use super::check;

    fn allowed(host: Option<&'static str>, origin: Option<&'static str>) -> bool {
        let mut headers = HeaderMap::new();
        host.map(|host| headers.insert("host", host.parse().unwrap()));
        origin.map(|origin| headers.insert("origin", origin.parse().unwrap()));
        check(&headers).is_ok()
    }

    #[test]
    fn this_machine_and_its_own_pages_are_served() {
        for host in ["localhost", "localhost:8080", "127.0.0.1:8080", "127.1.2.3", "[::1]:8080", "[::1]"] {
            assert!(allowed(Some(host), None), "{host}");
        }
        assert!(allowed(None, None), "HTTP/1.0 clients send no Host");
        assert!(allowed(Some("localhost:8080"), Some("http://localhost:8080")));
    }

    #[test]
    fn other_pages_and_rebound_names_are_not() {
        assert!(!allowed(Some("localhost:8080"), Some("https://example.org")));
        assert!(!allowed(Some("localhost:8080"), Some("null")));
        assert!(!allowed(Some("localhost:8080"), Some("http://localhost:3000")));
        assert!(!allowed(Some("example.org:8080"), Some("http://example.org:8080")));
        assert!(!allowed(Some("192.168.0.7:8080"), None));
    }
}
