use super::super::file::split;
use super::super::plan::Entity;
use crate::error::Kind;

const GOOD: &str = "
-- what a portal is
CREATE VIEW portalhook.portals AS SELECT 1 AS id, 'a; b' AS title;
/* posts; */ CREATE OR REPLACE VIEW portalhook.posts
AS -- as
   SELECT p.id AS id FROM posts p; -- the end
create view \"portalhook\".votes as select $$;$$ as id;;
CREATE VIEW portalhook.comments AS SELECT 1 AS id;
CREATE VIEW portalhook.users AS SELECT 'x' AS id";

#[test]
fn a_file_of_views_comes_apart_into_entities_and_their_selects() {
    let views = split(GOOD).expect("split");
    let entities: Vec<Entity> = views.iter().map(|(entity, _)| *entity).collect();
    assert_eq!(entities, [Entity::Portals, Entity::Posts, Entity::Votes, Entity::Comments, Entity::Users]);
    assert_eq!(views[0].1, "SELECT 1 AS id, 'a; b' AS title");
    assert_eq!(views[1].1, "-- as\n   SELECT p.id AS id FROM posts p");
    assert_eq!(views[2].1, "select $$;$$ as id");
    assert_eq!(views[4].1, "SELECT 'x' AS id");
}

#[test]
fn a_wrong_file_is_refused_with_the_line_and_what_is_allowed() {
    let cases = [
        (
            "CREATE TABLE portalhook.x (id int);",
            "line 10: CREATE TABLE portalhook.x … is not a CREATE VIEW; allowed is",
        ),
        ("CREATE MATERIALIZED VIEW portalhook.comment_votes AS SELECT 1;", "is not a CREATE VIEW"),
        (
            "CREATE VIEW portalhook.likes AS SELECT 1;",
            "line 10: there is no view portalhook.likes; allowed is CREATE VIEW with the names portalhook.posts, portalhook.votes",
        ),
        ("CREATE VIEW comment_votes AS SELECT 1;", "view comment_votes is not in schema portalhook"),
        ("CREATE VIEW app.comment_votes AS SELECT 1;", "view app.comment_votes is not in schema portalhook"),
        ("CREATE VIEW portalhook.users AS SELECT 1;", "line 10: a second CREATE VIEW portalhook.users"),
        ("CREATE VIEW portalhook.comment_votes (voter) AS SELECT 1;", "name them in its SELECT with AS"),
        ("CREATE VIEW portalhook.comment_votes WITH (security_barrier) AS SELECT 1;", "WITH options"),
        ("CREATE VIEW portalhook.comment_votes AS SELECT 1 WITH CHECK OPTION;", "WITH CHECK OPTION"),
        ("CREATE TEMP VIEW comment_votes AS SELECT 1;", "is TEMPORARY"),
        ("CREATE VIEW portalhook.comment_votes AS SELEKT 1;", "line 10: syntax error at or near \"SELEKT\""),
        ("CREATE VIEW portalhook.comment_votes AS SELECT 'open;", "unterminated quoted string"),
    ];
    for (statement, expected) in cases {
        let error = split(&format!("{GOOD};\n{statement}")).expect_err(statement);
        assert_eq!(error.kind(), Kind::Usage, "{statement}");
        assert!(format!("{error:?}").contains(expected), "{statement}: {error:?}");
    }
}

#[test]
fn a_file_that_lacks_a_view_is_refused_by_the_name_of_the_view() {
    let error = split(GOOD.rsplit_once("CREATE VIEW portalhook.users").expect("users").0).expect_err("no users");
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.to_string().starts_with("the mapping has no view portalhook.users; it needs portalhook.posts"));
    assert!(split("").is_err());
}
