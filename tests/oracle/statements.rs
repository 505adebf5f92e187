//! What applications do to their tables, with random names: small spaces, so that the same rows meet again and again.

use crate::support::random::Random;

type Maker = fn(&mut Random) -> String;

/// Statements by how often they come.
const MAKERS: &[(usize, Maker)] = &[
    (10, vote),
    (4, unvote),
    (5, move_vote),
    (3, vote_again),
    (2, silent_votes),
    (8, new_post),
    (14, change_post),
    (3, delete_post),
    (4, rekey_post),
    (2, swap_posts),
    (4, there_and_back),
    (3, touch_and_change),
    (3, rewrite_post),
    (7, new_comment),
    (8, change_comment),
    (2, delete_comment),
    (4, like),
    (5, new_user),
    (6, change_user),
    (2, delete_user),
    (2, rekey_user),
    (6, status),
    (5, portal),
    (3, unmapped),
    (3, many),
];

pub(super) fn any(random: &mut Random) -> String {
    let total: usize = MAKERS.iter().map(|(weight, _)| weight).sum();
    let mut left = random.below(total);
    for (weight, make) in MAKERS {
        if left < *weight {
            return make(random);
        }
        left -= weight;
    }
    unreachable!("the weights add up")
}

pub(super) fn truncate(random: &mut Random) -> String {
    let what = ["votes", "comments CASCADE", "posts CASCADE", "statuses", "comment_likes", "portals CASCADE", "audit"];
    format!("TRUNCATE {}", what[random.below(what.len())])
}

fn one<'t>(random: &mut Random, of: &[&'t str]) -> &'t str {
    of[random.below(of.len())]
}

fn number(random: &mut Random) -> usize {
    1 + random.below(9)
}

fn pk(random: &mut Random) -> usize {
    1 + random.below(14)
}

const USERS: [&str; 7] = ["'a,b'", r#"'ü "2"'"#, r"E'c\\3'", "'(x)'", "'NULL'", "''", "'7'"];

fn user(random: &mut Random) -> &'static str {
    one(random, &USERS)
}

/// Of a comment: perhaps one that never was.
fn author(random: &mut Random) -> &'static str {
    one(random, &[USERS[0], USERS[1], USERS[2], USERS[5], "'nobody'", "NULL"])
}

fn comment(random: &mut Random) -> usize {
    1 + random.below(10)
}

fn some_status(random: &mut Random) -> &'static str {
    one(random, &["1", "1", "2", "2", "3", "4", "9", "NULL"])
}

fn some_portal(random: &mut Random) -> &'static str {
    one(random, &["1", "1", "2", "3", "NULL"])
}

/// Short, nothing, or long enough to be stored apart from its row.
fn text(random: &mut Random) -> String {
    match random.below(6) {
        0 => "NULL".to_owned(),
        1 => "''".to_owned(),
        2 => format!(r#"E'short {} "quoted" \\ \t ü'"#, random.below(5)),
        _ => format!("repeat(md5('{}'), 90)", random.below(5)),
    }
}

fn vote(random: &mut Random) -> String {
    let (post, user, token) = (number(random), user(random), random.below(40));
    let conflict = one(
        random,
        &[
            "",
            " ON CONFLICT DO NOTHING",
            " ON CONFLICT (post_number, user_id) DO UPDATE SET weight = votes.weight + 1",
            " ON CONFLICT (token) DO UPDATE SET post_number = excluded.post_number, user_id = excluded.user_id",
        ],
    );
    let count = one(random, &["", &format!("; UPDATE posts SET votes_count = votes_count + 1 WHERE number = {post}")])
        .to_owned();
    format!("INSERT INTO votes (post_number, user_id, token) VALUES ({post}, {user}, {token}){conflict}{count}")
}

fn unvote(random: &mut Random) -> String {
    match random.below(3) {
        0 => format!("DELETE FROM votes WHERE user_id = {}", user(random)),
        _ => format!("DELETE FROM votes WHERE post_number = {} AND user_id > {}", number(random), user(random)),
    }
}

fn move_vote(random: &mut Random) -> String {
    let condition = format!("post_number = {} AND user_id >= {}", number(random), user(random));
    match random.below(6) {
        0 => format!("UPDATE votes SET post_number = {} WHERE {condition}", number(random)),
        // One vote, so that it seldom meets another of the same user.
        4..6 => format!(
            "UPDATE votes SET user_id = {} WHERE token = (SELECT min(token) FROM votes WHERE post_number = {})",
            user(random),
            number(random)
        ),
        1 => format!("UPDATE votes SET user_id = {} WHERE {condition}", user(random)),
        2 => format!("UPDATE votes SET token = {} WHERE {condition}", random.below(40)),
        _ => format!("UPDATE votes SET weight = -weight WHERE {condition}"),
    }
}

fn vote_again(random: &mut Random) -> String {
    let (post, user, token) = (number(random), user(random), random.below(40));
    format!(
        "DELETE FROM votes WHERE post_number = {post} AND user_id = {user} OR token = {token};
         INSERT INTO votes (post_number, user_id, token) VALUES ({post}, {user}, {token})"
    )
}

fn silent_votes(random: &mut Random) -> String {
    format!("UPDATE votes SET weight = weight, created_at = clock_timestamp() WHERE post_number = {}", number(random))
}

fn new_post(random: &mut Random) -> String {
    let conflict = one(
        random,
        &[
            "",
            " ON CONFLICT DO NOTHING",
            " ON CONFLICT (number) DO UPDATE SET title = excluded.title, pk = excluded.pk",
            " ON CONFLICT (pk) DO UPDATE SET description = excluded.description, deleted_at = NULL",
        ],
    );
    format!(
        "INSERT INTO posts (pk, number, title, description, status_id, author_id, portal_id, merged_into)
         VALUES ({}, {}, 'Post {}', {}, {}, {}, {}, {}){conflict}",
        pk(random),
        number(random),
        random.below(9),
        text(random),
        some_status(random),
        if random.below(4) == 0 { "NULL" } else { user(random) },
        some_portal(random),
        one(random, &["NULL", "5", "7", "8", "9"]),
    )
}

fn change_post(random: &mut Random) -> String {
    let set = match random.below(20) {
        0 => format!("title = 'Title {}'", random.below(4)),
        1 => format!("description = {}", text(random)),
        2..5 => format!("status_id = {}", some_status(random)),
        5 => format!("author_id = {}", if random.below(4) == 0 { "NULL" } else { user(random) }),
        6 => format!("portal_id = {}", some_portal(random)),
        7 | 18 | 19 => "held = NOT held".to_owned(),
        8 => "deleted_at = now()".to_owned(),
        9 => "deleted_at = NULL".to_owned(),
        10 => format!("pinned = {}", one(random, &["true", "false", "NULL"])),
        11 => format!("merged_into = (SELECT pk FROM posts WHERE number = {})", number(random)),
        13 => format!("score = {}", one(random, &["1", "1.0", "1.00", "'NaN'", "1e9", "NULL"])),
        14 => format!("mood = {}", one(random, &["'calm'", "'so ''so'", "NULL"])),
        15 => format!("tags = {}", one(random, &["'{}'", "'{a,NULL}'", r#"'{"NULL",""}'"#, "NULL"])),
        16 => format!(
            "meta = {}",
            one(random, &[r#"'{"b": 1.0, "a": "x"}'"#, r#"'{"b": 1, "a": "x"}'"#, "'null'", "NULL"])
        ),
        12 => format!("status_id = {}, title = 'Both {}'", some_status(random), random.below(4)),
        _ => "views = views + 1".to_owned(),
    };
    format!("UPDATE posts SET {set} WHERE number = {}", number(random))
}

fn delete_post(random: &mut Random) -> String {
    match random.below(3) {
        0 => {
            let number = number(random);
            format!("DELETE FROM comments WHERE post_number = {number}; DELETE FROM posts WHERE number = {number}")
        }
        1 => format!("DELETE FROM posts WHERE pk = {}", pk(random)),
        _ => format!("DELETE FROM posts WHERE number = {}", number(random)),
    }
}

fn rekey_post(random: &mut Random) -> String {
    match random.below(4) {
        0 => format!("UPDATE posts SET number = {} WHERE number = {}", number(random), number(random)),
        1 => format!("UPDATE posts SET pk = {} WHERE pk = {}", pk(random), pk(random)),
        2 => format!("UPDATE posts SET pk = {}, title = 'Moved' WHERE number = {}", pk(random), number(random)),
        _ => format!(
            "UPDATE posts SET pk = {}, number = {}, status_id = {} WHERE number = {}",
            pk(random),
            number(random),
            some_status(random),
            number(random)
        ),
    }
}

fn swap_posts(random: &mut Random) -> String {
    let column = one(random, &["pk", "number"]);
    let (a, b) = (number(random), number(random));
    format!(
        "UPDATE posts SET {column} = 1000 WHERE {column} = {a}; UPDATE posts SET {column} = {a} WHERE {column} = {b};
         UPDATE posts SET {column} = {b} WHERE {column} = 1000"
    )
}

/// A → B → A, also of a key; or a row that comes and goes.
fn there_and_back(random: &mut Random) -> String {
    let number = number(random);
    match random.below(5) {
        0 => format!(
            "UPDATE posts SET title = title || '?', deleted_at = now() WHERE number = {number};
             UPDATE posts SET title = left(title, -1), deleted_at = NULL WHERE number = {number} AND title LIKE '%?'"
        ),
        1 => format!(
            "UPDATE posts SET number = 1000 WHERE number = {number}; UPDATE posts SET number = {number} WHERE number = 1000"
        ),
        2 => format!(
            "UPDATE posts SET pk = pk + 1000 WHERE number = {number}; UPDATE posts SET pk = pk - 1000 WHERE pk > 1000"
        ),
        3 => format!(
            "INSERT INTO posts (pk, number, title, author_id, portal_id) VALUES (77, 77, 'Gone', {user}, 1);
             INSERT INTO votes (post_number, user_id, token) VALUES (77, {user}, 77);
             INSERT INTO comments (id, post_number, user_id) VALUES (77, 77, {user});
             DELETE FROM posts WHERE pk = 77",
            user = user(random)
        ),
        _ => format!(
            "UPDATE comments SET body = body || {}, hidden = NOT hidden WHERE post_number = {number};
             UPDATE comments SET hidden = NOT hidden WHERE post_number = {number}",
            text(random)
        ),
    }
}

/// A write that no SELECT notices in one row, beside a change in another that the first row's SELECT may read.
fn touch_and_change(random: &mut Random) -> String {
    let (number, title) = (number(random), random.below(9));
    let (touched, change) = match random.below(3) {
        0 => {
            let status = some_status(random);
            (
                format!("status_id = {status}"),
                format!("UPDATE statuses SET name = 'Changed {title}' WHERE id = {status}"),
            )
        }
        _ => (
            format!("merged_into = (SELECT pk FROM posts WHERE number = {number})"),
            format!("UPDATE posts SET title = 'Changed {title}' WHERE number = {number}"),
        ),
    };
    let touch = format!("UPDATE posts SET {} WHERE {touched}", one(random, &["views = views + 1", "title = title"]));
    if random.below(2) == 0 { format!("{touch}; {change}") } else { format!("{change}; {touch}") }
}

/// All but the generated one.
const COLUMNS: &str = "votes_count, pk, number, title, description, status_id, author_id, portal_id, held, pinned, merged_into, \
                       score, mood, tags, meta, views, deleted_at, created_at";

/// Deleted and inserted again in one transaction, under its key or another.
fn rewrite_post(random: &mut Random) -> String {
    let number = number(random);
    format!(
        "CREATE TEMP TABLE kept ON COMMIT DROP AS SELECT * FROM posts WHERE number = {number};
         DELETE FROM posts WHERE number = {number};
         {}INSERT INTO posts ({COLUMNS}) SELECT {COLUMNS} FROM kept; DROP TABLE kept",
        match random.below(4) {
            0 => format!("UPDATE kept SET pk = {}; ", pk(random)),
            1 => format!("UPDATE kept SET status_id = {}; ", some_status(random)),
            2 => format!("UPDATE kept SET pk = {}, description = {}; ", pk(random), text(random)),
            _ => String::new(),
        }
    )
}

fn new_comment(random: &mut Random) -> String {
    let conflict = one(
        random,
        &[
            "",
            " ON CONFLICT (id) DO UPDATE SET body = excluded.body, likes = comments.likes + 1",
            " ON CONFLICT DO NOTHING",
        ],
    );
    format!(
        "INSERT INTO comments (id, post_number, user_id, body) VALUES ({}, {}, {}, {}){conflict}",
        comment(random),
        one(random, &["1", "2", "3", "4", "5", "6", "NULL"]),
        author(random),
        text(random)
    )
}

fn change_comment(random: &mut Random) -> String {
    let set = match random.below(9) {
        0..2 => format!("post_number = {}", number(random)),
        2 => format!("body = {}", text(random)),
        3..5 => "hidden = NOT hidden".to_owned(),
        5 => format!("user_id = {}", author(random)),
        6 => format!("id = {}", comment(random)),
        7 => "created_at = created_at + interval '1 hour'".to_owned(),
        _ => "likes = likes + 1".to_owned(),
    };
    format!("UPDATE comments SET {set} WHERE id = {}", comment(random))
}

fn delete_comment(random: &mut Random) -> String {
    format!("DELETE FROM comments WHERE id = {}", comment(random))
}

fn like(random: &mut Random) -> String {
    let (comment, user) = (comment(random), user(random));
    match random.below(4) {
        0 => format!("DELETE FROM comment_likes WHERE user_id = {user}"),
        1 => format!("UPDATE comment_likes SET user_id = {user} WHERE comment_id = {comment}"),
        _ => format!("INSERT INTO comment_likes VALUES ({comment}, {user}) ON CONFLICT DO NOTHING"),
    }
}

fn new_user(random: &mut Random) -> String {
    format!(
        "INSERT INTO users (id, name, email) VALUES ({}, 'User {}', {})
         ON CONFLICT (id) DO UPDATE SET name = excluded.name, seen = users.seen + 1",
        user(random),
        random.below(4),
        one(random, &["NULL", "'mail@a.example'"])
    )
}

fn change_user(random: &mut Random) -> String {
    let set = match random.below(6) {
        0..2 => format!("name = 'Name {}'", random.below(4)),
        2 => "name = NULL".to_owned(),
        3 => "banned = NOT banned".to_owned(),
        4 => format!("role = '{}'", one(random, &["user", "admin"])),
        _ => "seen = seen + 1".to_owned(),
    };
    format!("UPDATE users SET {set} WHERE id = {}", user(random))
}

fn delete_user(random: &mut Random) -> String {
    format!("DELETE FROM users WHERE id = {}", user(random))
}

fn rekey_user(random: &mut Random) -> String {
    format!("UPDATE users SET id = {} WHERE id = {}", user(random), user(random))
}

fn status(random: &mut Random) -> String {
    let id = 1 + random.below(4);
    match random.below(8) {
        0..2 => format!("UPDATE statuses SET name = 'Status {}' WHERE id = {id}", random.below(4)),
        2 => format!("UPDATE statuses SET color = color + 1 WHERE id = {id}"),
        3 => format!("UPDATE statuses SET visible = NOT visible WHERE id = {id}"),
        4 => format!("DELETE FROM statuses WHERE id = {id}"),
        5 => format!("UPDATE statuses SET id = {} WHERE id = {id}", 1 + random.below(4)),
        _ => format!(
            "INSERT INTO statuses (id, name) VALUES ({id}, 'New {}') ON CONFLICT (id) DO UPDATE SET name = excluded.name",
            random.below(3)
        ),
    }
}

fn portal(random: &mut Random) -> String {
    let id = 1 + random.below(3);
    match random.below(7) {
        0..2 => format!("UPDATE portals SET title = 'Portal {}' WHERE id = {id}", random.below(4)),
        2 => format!("UPDATE portals SET theme = theme + 1 WHERE id = {id}"),
        3 => format!("DELETE FROM portals WHERE id = {id}"),
        4 => format!("DELETE FROM portals WHERE id = {id}; INSERT INTO portals VALUES ({id}, 'Again')"),
        _ => format!("INSERT INTO portals VALUES ({id}, 'Portal {id}') ON CONFLICT (id) DO UPDATE SET theme = 7"),
    }
}

fn unmapped(random: &mut Random) -> String {
    format!("INSERT INTO audit (what) VALUES ('{}')", random.below(100))
}

fn many(random: &mut Random) -> String {
    match random.below(7) {
        0 => format!("UPDATE posts SET status_id = {} WHERE status_id = {}", some_status(random), 1 + random.below(4)),
        1 => "UPDATE posts SET views = views + 1".to_owned(),
        2 => "UPDATE votes SET weight = weight + 1".to_owned(),
        3 => "UPDATE users SET seen = seen + 1, name = name".to_owned(),
        4 => format!(
            "INSERT INTO votes (post_number, user_id, token) SELECT number, {}, 40 + number FROM posts ON CONFLICT DO NOTHING",
            user(random)
        ),
        5 => "UPDATE posts SET held = false, deleted_at = NULL".to_owned(),
        _ => format!(
            "INSERT INTO users (id, name) SELECT id, 'Filled' FROM unnest(ARRAY[{}]) AS id ON CONFLICT DO NOTHING",
            USERS.join(", ")
        ),
    }
}
