//! What is read of Graph's responses.

use super::*;

#[test]
fn names_are_escaped_for_odata_and_url() {
    let url = group_url(&GroupRef::Name("O'Brien & sons+1".to_owned()));
    assert_eq!(
        url,
        "/groups?$select=id,displayName&$filter=displayName%20eq%20%27O%27%27Brien%20%26%20sons%2B1%27"
    );
}

fn by_id(id: &str) -> GroupRef {
    GroupRef::Id(id.to_owned())
}

fn by_name(name: &str) -> GroupRef {
    GroupRef::Name(name.to_owned())
}

fn policy(minimum: u32, required: Vec<GroupRef>) -> GroupPolicy {
    GroupPolicy { minimum, required }
}

/// Object ids found for each required group.
fn ids(listing: Listing<'_>) -> Vec<Vec<String>> {
    listing.groups().expect("groups").required.into_iter().map(|g| g.ids).collect()
}

#[test]
fn groups_without_a_name_do_not_count() {
    let policy = policy(1, vec![by_name("hq"), by_id("a"), by_id("b")]);
    let mut listing = Listing::of(&policy);
    listing
        .add(&json!({"value": [{"id": "A", "displayName": "HQ"}, {"id": "b", "displayName": null}]}))
        .expect("a page");
    assert_eq!((listing.count, listing.nameless), (1, 1));
    assert_eq!(ids(listing), [vec!["a".to_owned()], vec!["a".to_owned()], vec![]]);
    for page in
        [json!({}), json!({"value": "x"}), json!({"value": [1]}), json!({"value": [{"displayName": "x"}]})]
    {
        assert_eq!(
            Listing::of(&policy).add(&page).map_err(|f| f.reason),
            Err(Reason::InvalidResponse),
            "{page}"
        );
    }
}

#[test]
fn ids_are_ids_and_names_are_names() {
    let (one, two, three) = (
        "11111111-0000-0000-0000-000000000001",
        "22222222-0000-0000-0000-000000000002",
        "33333333-0000-0000-0000-3",
    );
    let group = |id: &str, name: &str| json!({"id": id, "displayName": name});
    let found = |groups: Vec<Value>| Some(json!({ "value": groups }));
    for (sentence, required, page, looked_up, expected) in [
        ("an id on the page", by_id(one), vec![group(one, "HQ")], None, vec![one]),
        ("an id in capitals", by_id(&two.to_uppercase()), vec![group(two, "HQ")], None, vec![two]),
        ("an id that is gone, and its name with another", by_id(one), vec![group(two, "HQ")], None, vec![]),
        ("a group named like another's id", by_id(one), vec![group(two, one)], None, vec![]),
        (
            "a name that looks like an id",
            by_name(one),
            vec![group(one, "HQ"), group(two, one)],
            None,
            vec![two],
        ),
        ("a name in another case", by_name("door ACCESS"), vec![group(one, "Door Access")], None, vec![one]),
        ("a name with umlauts", by_name("TÜREN"), vec![group(one, "Türen")], None, vec![one]),
        (
            "two of one name on a page",
            by_name("HQ"),
            vec![group(one, "HQ"), group(two, "hq")],
            None,
            vec![one, two],
        ),
        (
            "the second in a look-up",
            by_name("HQ"),
            vec![group(one, "HQ")],
            Some(found(vec![group(one, "HQ"), group(two, "HQ")])),
            vec![one, two],
        ),
        (
            "both in a look-up only",
            by_name("HQ"),
            vec![group(three, "X")],
            Some(found(vec![group(one, "HQ"), group(two, "HQ")])),
            vec![one, two],
        ),
        ("not found by a look-up", by_name("HQ"), vec![group(three, "X")], Some(found(vec![])), vec![]),
        ("an id that only the look-up shows", by_id(one), vec![], Some(Some(group(one, "HQ"))), vec![one]),
        ("an id that does not exist", by_id(one), vec![], Some(None), vec![]),
        (
            "an id that may not be seen",
            by_id(one),
            vec![],
            Some(Some(json!({"id": one, "displayName": null}))),
            vec![],
        ),
    ] {
        let policy = policy(0, vec![required]);
        let mut listing = Listing::of(&policy);
        listing.add(&json!({ "value": page })).expect("a page");
        if let Some(answer) = looked_up {
            listing.looked_up(0, answer).expect("an answer");
        }
        assert_eq!(
            ids(listing),
            [expected.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>()],
            "{sentence}"
        );
    }
}

#[test]
fn invalid_look_ups_are_rejected() {
    let policy = policy(0, vec![by_id("a"), by_name("HQ")]);
    for (index, answer) in [
        (0, json!({"id": "b", "displayName": "HQ"})),
        (1, json!({"value": {}})),
        (1, json!({"id": "a", "displayName": "HQ"})),
    ] {
        let result = Listing::of(&policy).looked_up(index, Some(answer.clone()));
        assert_eq!(result.map_err(|f| f.reason), Err(Reason::InvalidResponse), "{answer}");
    }
}

#[test]
fn names_are_looked_up_if_a_page_is_not_the_whole_list() {
    let policy = policy(0, vec![by_name("HQ"), by_name("Lab"), by_id("a"), by_id("z")]);
    let mut listing = Listing::of(&policy);
    listing.add(&json!({"value": [{"id": "a", "displayName": "HQ"}]})).expect("a page");
    assert_eq!(
        listing.to_look_up(),
        [0, 1, 3],
        "an id that was seen needs no look-up; another group may have a name that was seen"
    );
    for index in [0, 1, 3] {
        listing
            .looked_up(index, if index == 3 { None } else { Some(json!({"value": []})) })
            .expect("an answer");
    }
    assert!(listing.to_look_up().is_empty(), "no group is looked up twice");
}

#[test]
fn lists_without_an_end_are_not_followed() {
    let groups = |range: std::ops::Range<u32>| json!({"value": range.map(|n| json!({"id": n.to_string(), "displayName": "g"})).collect::<Vec<_>>()});
    for (sentence, minimum, pages, repeats, expected) in [
        ("a short list goes on", 1, vec![groups(0..5)], false, Ok(true)),
        ("an empty page goes on", 1, vec![groups(0..0)], false, Ok(true)),
        ("as many as are counted", 1, vec![groups(0..999), groups(999..1000)], false, Ok(false)),
        ("a link that comes back, with enough groups", 3, vec![groups(0..3)], true, Ok(false)),
        ("a link that comes back, with too few", 4, vec![groups(0..3)], true, Err(Reason::InvalidResponse)),
        (
            "a page that comes back counts once",
            4,
            vec![groups(0..3), groups(0..3)],
            true,
            Err(Reason::InvalidResponse),
        ),
        (
            "many small pages, with enough groups",
            20,
            (0..20).map(|n| groups(n..n + 1)).collect(),
            false,
            Ok(false),
        ),
        (
            "many small pages, with too few",
            21,
            (0..20).map(|n| groups(n..n + 1)).collect(),
            false,
            Err(Reason::InvalidResponse),
        ),
        ("many empty pages", 1, (0..20).map(|_| groups(0..0)).collect(), false, Err(Reason::InvalidResponse)),
        ("many empty pages, with no minimum", 0, (0..20).map(|_| groups(0..0)).collect(), false, Ok(false)),
    ] {
        let policy = policy(minimum, Vec::new());
        let mut listing = Listing::of(&policy);
        pages.iter().for_each(|page| listing.add(page).expect("a page"));
        if repeats {
            listing.links.insert("next".to_owned());
        }
        assert_eq!(listing.follows("next").map_err(|f| f.reason), expected, "{sentence}");
    }
}

fn item(id: &str) -> BatchItem {
    BatchItem { id: id.to_owned(), url: String::new() }
}

/// A batch of one item with this status, headers and body: the object, or the reason why there is none.
fn found(status: u16, headers: Value, body: Value, caller: GraphCaller) -> Result<Option<Value>, Reason> {
    let answer = json!({"responses": [{"id": "x", "status": status, "headers": headers, "body": body}]});
    let mut answers = batch_answers(answer, &[item("x")], None).map_err(|f| f.reason)?;
    answers.remove("x").expect("an answer").found(caller).map_err(|f| f.reason)
}

#[test]
fn only_graph_itself_can_say_that_an_object_is_absent() {
    use Reason::*;
    let error = |code: &str| json!({"error": {"code": code, "message": ""}});
    for (sentence, status, body, expected) in [
        ("an object", 200, json!({"id": "1"}), Ok(Some(json!({"id": "1"})))),
        ("Graph says that it is not there", 404, error("Request_ResourceNotFound"), Ok(None)),
        ("the tenant is not there", 404, error("Directory_ObjectNotFound"), Err(TenantMissing)),
        ("404 with another code", 404, error("UnknownError"), Err(Unclassified)),
        ("404 with an empty code", 404, error(""), Err(Unclassified)),
        ("404 of a gateway", 404, json!({"message": "no route"}), Err(InvalidResponse)),
        ("404 with a page", 404, json!("<html>Not found</html>"), Err(InvalidResponse)),
        (
            "404 with the code in another place",
            404,
            json!({"code": "Request_ResourceNotFound"}),
            Err(InvalidResponse),
        ),
        ("404 without a body", 404, Value::Null, Err(InvalidResponse)),
        ("the code with another status", 400, error("Request_ResourceNotFound"), Err(Unclassified)),
        ("200 with a page", 200, json!("<html>Sign in</html>"), Err(InvalidResponse)),
        ("403 with a page", 403, json!("<html>Blocked</html>"), Err(InvalidResponse)),
        ("403 of Graph", 403, error("Authorization_RequestDenied"), Err(GroupAccessDenied)),
        ("424 for a throttled one", 424, error("TooManyRequests"), Err(Throttled)),
    ] {
        assert_eq!(found(status, json!({}), body, GraphCaller::Own), expected, "{sentence}");
    }
    let challenge =
        json!({"www-authenticate": "Bearer realm=\"\", error=\"insufficient_claims\", claims=\"e30=\""});
    assert_eq!(found(403, challenge.clone(), Value::Null, GraphCaller::Own), Err(InteractionRequired));
    assert_eq!(found(401, challenge, json!("<html>"), GraphCaller::Reader), Err(ReaderPermissionMissing));
}

#[test]
fn the_longest_pause_of_a_batch_counts() {
    let throttled = |after: Value| json!({"status": 429, "headers": {"Retry-After": after}, "body": {"error": {"code": "TooManyRequests"}}});
    let with_id = |id: &str, mut item: Value| {
        item["id"] = json!(id);
        item
    };
    let items = [item("a"), item("b"), item("c")];
    let wait = |answers: &mut HashMap<String, ItemAnswer>, id: &str| {
        answers.remove(id).expect("an answer").found(GraphCaller::Own).expect_err("a fault").retry_after
    };
    let body = json!({"responses": [
        with_id("a", throttled(json!("10"))),
        with_id("b", throttled(json!(600))),
        with_id("c", json!({"status": "503", "body": {"error": {"code": "UnknownError"}}})),
    ]});
    let mut answers = batch_answers(body, &items, None).expect("answers");
    for id in ["a", "b", "c"] {
        assert_eq!(wait(&mut answers, id), Some(Duration::from_secs(600)), "{id}");
    }
    let date = Some("Wed, 21 Oct 2026 07:28:00 GMT");
    let body = json!({"responses": [with_id("a", throttled(json!("Wed, 21 Oct 2026 07:28:30 GMT")))]});
    let mut answers = batch_answers(body, &items[..1], date).expect("answers");
    assert_eq!(wait(&mut answers, "a"), Some(Duration::from_secs(30)), "by the date of the whole response");
    let part = json!({"responses": [with_id("a", throttled(json!(77)))]});
    let fault = batch_answers(part, &items, None).err().expect("items are missing");
    assert_eq!((fault.reason, fault.retry_after), (Reason::Throttled, Some(Duration::from_secs(77))));
    let part = json!({"responses": [{"id": "a", "status": 200, "body": {}}]});
    assert_eq!(batch_answers(part, &items, None).err().map(|f| f.reason), Some(Reason::InvalidResponse));
    for invalid_body in
        [json!([]), json!({}), json!({"responses": {}}), json!({"responses": [7, null, {"id": null}]})]
    {
        assert_eq!(
            batch_answers(invalid_body, &items, None).err().map(|f| f.reason),
            Some(Reason::InvalidResponse)
        );
    }
}
