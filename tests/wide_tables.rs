//! Tables and SELECTs as wide as PostgreSQL makes them.

use crate::support::portal::{Portal, name_and_id};
use crate::support::receiver::Receiver;

const COLUMNS: usize = 1500;

fn wide(rows: &str) -> String {
    let columns: Vec<String> = (1..=COLUMNS).map(|n| format!("ADD COLUMN c{n} int")).collect();
    format!("{}\nALTER TABLE posts {};\n{rows}", include_str!("../sql/demo/portal.sql"), columns.join(", "))
}

fn views(columns: usize, more: &str) -> String {
    let names: Vec<String> = (1..=columns).map(|n| format!("c{n}")).collect();
    include_str!("../sql/demo/views.sql").replacen("status,", &format!("status, {}{more},", names.join(", ")), 1)
}

#[test]
fn fifteen_hundred_columns_of_a_table_stand_in_a_body() {
    let portal = Portal::new(&wide("UPDATE posts SET c1 = 1, c1500 = 1500;"), &views(COLUMNS, ""));
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{*,post.updated}'");
    let _daemon = portal.run();
    portal.sql("UPDATE posts SET c750 = 750, c751 = NULL, views = 3 WHERE id = 99");
    portal.sql("INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49)");
    portal.sql("INSERT INTO posts (id, title, user_id, portal_id, c2) VALUES (100, 'Wide', 48, 4, 2)");
    portal.sql("UPDATE posts SET views = 4 WHERE id = 99");
    portal.sql("DELETE FROM posts WHERE id = 99");
    let events = portal.events(&receiver, endpoint);
    let names: Vec<String> = events.iter().map(name_and_id).collect();
    assert_eq!(names, ["post.updated 99", "vote.created 1", "post.created 100", "post.deleted 99", "vote.deleted 1"]);
    assert_eq!(events[0].data("/changes").to_string(), r#"{"c750":{"from":null,"to":750}}"#);
    for (event, c2) in [(&events[1], None), (&events[2], Some(2)), (&events[3], None)] {
        let post = event.data("/post");
        let own = post.as_object().expect("an object");
        assert_eq!(
            own.keys().filter(|name| name.starts_with('c') && name[1..].parse::<usize>().is_ok()).count(),
            COLUMNS
        );
        assert_eq!(post["c2"].as_i64(), c2);
        assert_eq!(post["c1500"].as_i64(), (post["id"] == 99).then_some(1500));
    }
}

#[test]
fn a_select_with_more_columns_than_postgresql_takes_is_refused_in_words() {
    let portal = Portal::sample_with("");
    let more: Vec<String> = (1..=1700).map(|n| format!(", {n} AS n{n}")).collect();
    let output = portal.try_setup(&include_str!("../sql/demo/views.sql").replacen(
        "status,",
        &format!("status{},", more.concat()),
        1,
    ));
    assert_eq!(output.status.code(), Some(64));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    println!("{said:.400}");
    assert!(said.contains("1664") && said.contains("posts"), "{said:.400}");
}

#[test]
fn a_select_nested_deeper_than_it_can_be_read_is_refused_in_words() {
    let portal = Portal::sample_with("");
    for depth in [60, 400, 3000] {
        let nested = format!("{}status{}", "coalesce((".repeat(depth), "), '')".repeat(depth));
        let output = portal.try_setup(&include_str!("../sql/demo/views.sql").replacen(
            "status,",
            &format!("{nested} AS status,"),
            1,
        ));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        println!("{depth}: {:?} {said:.300}", output.status);
        assert!(output.status.code() == Some(64), "{depth}: {:?} {said:.400}", output.status);
    }
}

#[test]
fn so_is_one_that_replaces_a_mapping_that_runs() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let daemon = portal.run();
    let update = |depth: usize| {
        let nested = format!("{}status{}", "coalesce((".repeat(depth), "), '')".repeat(depth));
        format!(
            "UPDATE portalhook.mapping SET query = $q$SELECT id, title, description, {nested} AS status, user_id AS author,
             portal_id AS portal, created_at FROM public.posts$q$ WHERE entity = 'posts'"
        )
    };
    let said = portal.database.sql_error(&update(20_000));
    assert!(said.contains("posts: PostgreSQL cannot run this SELECT: "), "{said:.300}");
    portal.sql(&update(60));
    portal.wait_for_outcome("SELECT count(*) > 0 FROM portalhook.switches WHERE problem LIKE '%nested too deeply%'");
    portal.sql("INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49)");
    assert_eq!(portal.event_names(&receiver, endpoint), ["vote.created 1"], "the mapping before goes on");
    let checked = portal.command(&["check", "--admin-url", &portal.database.owner_url()]);
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(said.contains("nested too deeply"), "{said}");
    daemon.terminate();
}
