//! The description for people: one page without anything from elsewhere.

use actix_web::HttpResponse;

use crate::http::dashboard::locked_down;

const PAGE: &str = include_str!("page.html");

/// Anyone: the page. It fetches the description from this manager, and nothing else.
pub(in crate::http) async fn page() -> HttpResponse {
    locked_down(PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_self_contained_and_writes_no_markup() {
        assert_eq!((PAGE.matches("<script>").count(), PAGE.matches("<style>").count()), (1, 1));
        for forbidden in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "http://", "https://", "style="]
        {
            assert!(!PAGE.contains(forbidden), "{forbidden}");
        }
    }
}
