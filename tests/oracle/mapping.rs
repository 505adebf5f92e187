//! The SELECTs under which a history is played, and the query that evaluates them on the application's own tables.

/// One entity of a mapping.
pub(super) struct Entity {
    pub(super) name: &'static str,
    pub(super) table: &'static str,
    /// The primary key's columns.
    pub(super) key: &'static [&'static str],
    /// The mapped id over the base table alone.
    id: &'static str,
    select: &'static str,
    /// What follows WHERE; empty: every row is live.
    live: &'static str,
}

/// Which SELECTs; each reaches other rules of the mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mapping {
    /// No SELECT reads a second table: batches end only where a key comes again.
    Plain,
    /// A status in a table of its own.
    Joined,
    /// Computed ids, the base table read twice, WHERE over a joined row, joins from votes and comments.
    Tangled,
}

impl Mapping {
    pub(super) const ALL: [Self; 3] = [Self::Plain, Self::Joined, Self::Tangled];

    /// Joined rows decide what is live: the counters follow the events and may differ from what a query would count.
    pub(super) fn counters_drift(self) -> bool {
        self == Self::Tangled
    }

    pub(super) fn views(self) -> String {
        let view = |entity: &Entity| format!("CREATE VIEW portalhook.{} AS {};\n", entity.name, entity.sql(true));
        self.entities().iter().map(view).collect()
    }

    /// A row for each row of each base table: entity, id, key, which version of the row it is, whether it is live, and the
    /// SELECT's columns as JSON (null where the SELECT, without its WHERE, does not give the row).
    ///
    /// A version is where the row lies and who wrote it: every write, also one that changes nothing, makes another. One
    /// statement, so that everything is seen in one snapshot.
    pub(super) fn observation(self) -> String {
        let part = |entity: &Entity| {
            let json = |alias: &str| {
                let time = r#"'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'"#;
                let time = format!("to_char({alias}.created_at::timestamptz AT TIME ZONE 'UTC', {time})");
                let timed = entity.select.contains("created_at");
                let override_ =
                    if timed { format!(" || jsonb_build_object('created_at', {time})") } else { String::new() };
                format!("to_jsonb({alias}){override_}")
            };
            format!(
                "SELECT '{name}', base.id, base.key, base.version, l.id IS NOT NULL,
                        (CASE WHEN l.id IS NOT NULL THEN {live} WHEN a.id IS NOT NULL THEN {any} END)::text
                 FROM (SELECT ({id})::text AS id, concat_ws(',', {key}) AS key, concat(ctid, ' ', xmin) AS version FROM {table}) AS base
                 LEFT JOIN ({any_sql}) AS a ON a.id::text = base.id
                 LEFT JOIN ({live_sql}) AS l ON l.id::text = base.id",
                name = entity.name,
                live = json("l"),
                any = json("a"),
                id = entity.id,
                key = entity.key.join(", "),
                table = entity.table,
                any_sql = entity.sql(false),
                live_sql = entity.sql(true),
            )
        };
        self.entities().iter().map(part).collect::<Vec<_>>().join("\nUNION ALL\n")
    }

    pub(super) fn entities(self) -> &'static [Entity] {
        match self {
            Self::Plain => PLAIN,
            Self::Joined => JOINED,
            Self::Tangled => TANGLED,
        }
    }
}

impl Entity {
    fn sql(&self, live: bool) -> String {
        let condition = if live && !self.live.is_empty() { format!(" WHERE {}", self.live) } else { String::new() };
        format!("{}{condition}", self.select)
    }
}

const USERS: Entity = Entity {
    name: "users",
    table: "users",
    key: &["id"],
    id: "id",
    select: "SELECT id, name, email, role FROM public.users",
    live: "NOT banned",
};

const PORTALS: Entity = Entity {
    name: "portals",
    table: "portals",
    key: &["id"],
    id: "id",
    select: "SELECT id, title FROM public.portals",
    live: "",
};

const COMMENT_VOTES: Entity = Entity {
    name: "comment_votes",
    table: "comment_likes",
    key: &["user_id", "comment_id"],
    id: "comment_id || ' ' || user_id",
    select: "SELECT comment_id || ' ' || user_id AS id, user_id AS voter FROM public.comment_likes",
    live: "",
};

const VOTES: Entity = Entity {
    name: "votes",
    table: "votes",
    key: &["post_number", "user_id"],
    id: "post_number || ':' || user_id",
    select: "SELECT post_number || ':' || user_id AS id, post_number AS post, user_id AS voter, created_at FROM public.votes",
    live: "",
};

const COMMENTS: Entity = Entity {
    name: "comments",
    table: "comments",
    key: &["id"],
    id: "id",
    select: "SELECT id, post_number AS post, user_id AS author, body AS comment, created_at FROM public.comments",
    live: "NOT hidden",
};

const PLAIN: &[Entity] = &[
    Entity {
        name: "posts",
        table: "posts",
        key: &["pk"],
        id: "number",
        select: "SELECT number AS id, title, description, CASE status_id WHEN 1 THEN 'open' WHEN 2 THEN 'planned' ELSE 'other' END AS status, \
                 author_id AS author, portal_id AS portal, created_at, pinned, score::text AS score, mood, tags, meta, slug FROM public.posts",
        live: "deleted_at IS NULL AND NOT held",
    },
    // The same id whatever it is a vote for.
    Entity {
        name: "votes",
        table: "votes",
        key: &["post_number", "user_id"],
        id: "token",
        select: "SELECT token AS id, post_number AS post, user_id AS voter, created_at FROM public.votes",
        live: "weight >= 0",
    },
    COMMENTS,
    COMMENT_VOTES,
    USERS,
    PORTALS,
];

const JOINED: &[Entity] = &[
    Entity {
        name: "posts",
        table: "posts",
        key: &["pk"],
        id: "number",
        select: "SELECT p.number AS id, p.title, p.description, s.name AS status, p.author_id AS author, p.portal_id AS portal, \
                 p.created_at FROM public.posts p LEFT JOIN public.statuses s ON s.id = p.status_id",
        live: "p.deleted_at IS NULL AND NOT p.held",
    },
    VOTES,
    COMMENTS,
    COMMENT_VOTES,
    USERS,
    PORTALS,
];

const TANGLED: &[Entity] = &[
    Entity {
        name: "posts",
        table: "posts",
        key: &["pk"],
        id: "'p' || number",
        select: "SELECT 'p' || p.number AS id, p.title, p.description, s.name AS status, p.author_id AS author, p.portal_id AS portal, \
                 p.created_at, (SELECT m.title FROM public.posts m WHERE m.pk = p.merged_into) AS merged, \
                 p.mood = 'cross' AS angry, upper(p.slug) AS slug, cardinality(p.tags) AS tags, p.meta -> 'a' AS meta \
                 FROM public.posts p LEFT JOIN public.statuses s ON s.id = p.status_id",
        live: "p.deleted_at IS NULL AND coalesce(s.visible, true)",
    },
    Entity {
        name: "votes",
        table: "votes",
        key: &["post_number", "user_id"],
        id: "post_number || ':' || user_id",
        select: "SELECT v.post_number || ':' || v.user_id AS id, 'p' || v.post_number AS post, v.user_id AS voter, v.created_at, \
                 p.title AS post_title FROM public.votes v LEFT JOIN public.posts p ON p.number = v.post_number",
        live: "NOT coalesce(p.held, false)",
    },
    Entity {
        name: "comments",
        table: "comments",
        key: &["id"],
        id: "id",
        select: "SELECT c.id, 'p' || c.post_number AS post, c.user_id AS author, c.body AS comment, c.created_at, \
                 coalesce(u.name, 'Anonymous') AS byline FROM public.comments c LEFT JOIN public.users u ON u.id = c.user_id",
        live: "NOT c.hidden",
    },
    COMMENT_VOTES,
    USERS,
    PORTALS,
];
