//! The dashboard: one page without anything from elsewhere.

use actix_web::HttpResponse;
use data_encoding::BASE64;
use sha2::{Digest, Sha256};

const PAGE: &str = include_str!("dashboard.html");

/// Only a page's own script and style run, known by their digests, and it may call nobody but this manager.
fn content_security_policy(page: &str) -> String {
    let (script, style) = (source(page, "<script>", "</script>"), source(page, "<style>", "</style>"));
    format!(
        "default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; base-uri 'none'; form-action \
         'none'; frame-ancestors 'none'"
    )
}

/// The digest of what stands between two tags, as a policy names it.
fn source(page: &str, open: &str, close: &str) -> String {
    let inner = page.split_once(open).and_then(|(_, rest)| rest.split_once(close)).map_or("", |(inner, _)| inner);
    format!("'sha256-{}'", BASE64.encode(&Sha256::digest(inner)))
}

/// A page that runs only what it brings along.
pub(super) fn locked_down(page: &'static str) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .insert_header(("content-security-policy", content_security_policy(page)))
        .insert_header(("x-content-type-options", "nosniff"))
        .insert_header(("referrer-policy", "no-referrer"))
        .insert_header(("cache-control", "no-store"))
        .body(page)
}

/// Anyone: the page, which has no data in it. What it shows it asks for with the viewer credential in its
/// address's fragment, which browsers do not send.
pub(super) async fn page() -> HttpResponse {
    locked_down(PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_self_contained_and_writes_no_markup() {
        assert_eq!(PAGE.matches("<script>").count(), 1);
        assert_eq!(PAGE.matches("<style>").count(), 1);
        for forbidden in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "http://", "https://", "style="]
        {
            assert!(!PAGE.contains(forbidden), "{forbidden}");
        }
        assert_eq!(content_security_policy(PAGE).matches("'sha256-").count(), 2);
    }
}
