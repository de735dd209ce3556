//! Lists that are longer than a page.

use keywitness_verifier::{
    client::ManagerClient,
    wire::{Acknowledgement, Alert, AlertQuery, AlertState, Role},
};

use super::{Api, streams};
use crate::{
    ledger::state::{self, key},
    service::access::Caller,
};

/// Follows `next` to the end: the numbers of the alerts, in the order in which they came, and how many pages there were.
fn follow(client: &ManagerClient, state: Option<AlertState>) -> (Vec<u64>, usize) {
    let (mut query, mut numbers) = (AlertQuery { state, after: 0 }, Vec::new());
    for pages in 1.. {
        let page = client.alerts(&query).unwrap();
        assert!(page.alerts.len() <= 1000);
        numbers.extend(page.alerts.iter().map(|alert| alert.number));
        match page.next {
            Some(next) => {
                assert!(next > query.after);
                query.after = next;
            }
            None => return (numbers, pages),
        }
    }
    unreachable!()
}

#[test]
fn whoever_follows_the_pages_of_alerts_sees_each_exactly_once() {
    const LAST: u64 = 25_000;
    let api = Api::new();
    streams::alerts(&api.world, 0, 1);
    let raised = api.world.manager.alert(&Caller::in_process(), 1).unwrap();
    // More than a page at the beginning, and then for longer than one page looks none, but at the end.
    let is_open = |number: u64| number <= 1500 || number > LAST - 3;
    let seen = Acknowledgement { by: "operator".to_owned(), at: raised.at, note: String::new() };
    let alert =
        |number: u64| Alert { number, acknowledged: (!is_open(number)).then(|| seen.clone()), ..raised.clone() };
    let mut fill = |tables: &mut dyn crate::ledger::Tables| {
        (1..=LAST).try_for_each(|number| state::put(tables, &key::number(number), &alert(number)))
    };
    api.world.store.write(&mut fill).unwrap();
    let client = ManagerClient::new(&format!("http://{}", api.server.address())).unwrap();
    let client = client.with_credential(api.credential(Role::Viewer));
    let all = |wanted: &dyn Fn(&u64) -> bool| (1..=LAST).filter(wanted).collect::<Vec<_>>();
    let (numbers, pages) = follow(&client, Some(AlertState::Open));
    assert_eq!(numbers, all(&|number| is_open(*number)));
    assert!(pages > 2);
    assert_eq!(follow(&client, Some(AlertState::Acknowledged)).0, all(&|number| !is_open(*number)));
    assert_eq!(follow(&client, None), (all(&|_| true), 25));
}
