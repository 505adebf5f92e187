//! What applications' migrations do to mapped tables, and what comes of it.

/// What becomes of a mapped thing that a migration changes.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Then {
    /// The stream goes on as if nothing had happened.
    GoesOn,
    /// Copied afresh, without events; what comes later is exact.
    Copied,
    /// Compared, and what differs gives events.
    Compared,
    /// The stream stands still until the mapping is changed by this.
    Paused(&'static str),
    /// The same; then the table is compared with its fresh copy.
    PausedAndCompared(&'static str),
}

pub(super) struct Migration {
    pub(super) name: &'static str,
    /// Before setup.
    pub(super) schema: &'static str,
    pub(super) migration: &'static str,
    pub(super) then: Then,
    /// After it.
    pub(super) writes: &'static str,
    pub(super) events: &'static [&'static str],
    /// What the last event says at a place.
    pub(super) says: (&'static str, &'static str),
    pub(super) from: u32,
}

const fn migration(name: &'static str, migration: &'static str, then: Then) -> Migration {
    Migration {
        name,
        schema: "",
        migration,
        then,
        writes: "UPDATE posts SET title = 'After' WHERE id = 99;
                 INSERT INTO votes (id, post_id, user_id) VALUES (2, 99, 49);
                 DELETE FROM votes WHERE id = 1;",
        events: &["post.updated 99", "vote.created 2", "vote.deleted 1"],
        says: ("/post/title", "After"),
        from: 14,
    }
}

const PARTITIONED: &str = "
    DROP TABLE votes;
    CREATE TABLE votes (id int PRIMARY KEY, post_id int, user_id int, created_at timestamptz DEFAULT now()) PARTITION BY RANGE (id);
    CREATE TABLE votes_1 PARTITION OF votes FOR VALUES FROM (0) TO (1000);
    CREATE TABLE votes_2 PARTITION OF votes FOR VALUES FROM (1000) TO (2000);
    INSERT INTO votes (id, post_id, user_id) VALUES (1500, 99, 48);";

/// Everything that an operator's framework may do to a mapped table, and what comes of it.
pub(super) const MIGRATIONS: &[Migration] = &[
    migration(
        "unmapped columns come, change and go",
        "ALTER TABLE posts ADD COLUMN rank int, ADD COLUMN slug text DEFAULT 'x';
         ALTER TABLE posts ALTER COLUMN rank TYPE bigint; ALTER TABLE posts RENAME COLUMN rank TO score;
         ALTER TABLE posts DROP COLUMN slug; ALTER TABLE posts DROP COLUMN views;
         ALTER TABLE users ALTER COLUMN password_hash TYPE varchar(200); ALTER TABLE users RENAME COLUMN password_hash TO digest;",
        Then::GoesOn,
    ),
    migration(
        "indexes, defaults, constraints, triggers and comments",
        "CREATE INDEX ON posts (title); ALTER TABLE posts ALTER COLUMN status SET DEFAULT 'new';
         ALTER TABLE posts ADD CONSTRAINT short CHECK (length(title) < 1000); ALTER TABLE posts ALTER COLUMN description SET NOT NULL;
         COMMENT ON TABLE posts IS 'x'; ALTER TABLE posts SET (fillfactor = 50); ALTER TABLE votes DROP CONSTRAINT votes_user_id_fkey;
         CREATE INDEX CONCURRENTLY once ON votes (post_id, user_id); ANALYZE posts;",
        Then::GoesOn,
    ),
    migration("a rewrite without a change", "VACUUM FULL posts; CLUSTER votes USING votes_pkey; REINDEX TABLE posts;", Then::Copied),
    Migration {
        says: ("/post/description", "WOW. THIS IS THE BEST IDEA I HAVE EVER SEEN!"),
        ..migration(
            "a rewrite that changes values and no type",
            "ALTER TABLE posts ALTER COLUMN description TYPE text USING upper(description)",
            Then::Copied,
        )
    },
    Migration {
        writes: "UPDATE posts SET title = 'After' WHERE id = 99; DELETE FROM votes WHERE id = 1;",
        events: &["post.updated 99", "vote.deleted 1"],
        ..migration(
            "mapped columns change their types",
            "ALTER TABLE posts ALTER title TYPE varchar(300); ALTER TABLE posts ALTER id TYPE bigint;
             ALTER TABLE votes ALTER post_id TYPE bigint; ALTER TABLE posts ALTER created_at TYPE timestamp USING created_at AT TIME ZONE 'UTC';",
            Then::Copied,
        )
    },
    Migration {
        says: ("/post/status", "2"),
        writes: "UPDATE posts SET status = 2 WHERE id = 99;",
        events: &["post.status_changed 99"],
        ..migration(
            "a mapped column changes its type and its values",
            "ALTER TABLE posts ALTER status DROP DEFAULT; ALTER TABLE posts ALTER status TYPE int USING length(status);",
            Then::Copied,
        )
    },
    Migration {
        writes: "UPDATE posts SET headline = 'After' WHERE id = 99; DELETE FROM votes WHERE id = 1;",
        events: &["post.updated 99", "vote.deleted 1"],
        ..migration(
            "a mapped column is renamed",
            "ALTER TABLE posts RENAME title TO headline",
            Then::Paused("UPDATE portalhook.mapping SET query = replace(query, 'title,', 'headline AS title,') WHERE entity = 'posts'"),
        )
    },
    Migration {
        writes: "UPDATE posts SET title = 'After' WHERE id = 99; DELETE FROM votes WHERE id = 1;",
        events: &["post.updated 99", "vote.deleted 1"],
        ..migration(
            "a mapped column is dropped",
            "ALTER TABLE posts DROP description",
            Then::Paused("UPDATE portalhook.mapping SET query = replace(query, 'description,', 'NULL::text AS description,') WHERE entity = 'posts'"),
        )
    },
    migration("a mapped column is dropped and added", "BEGIN; ALTER TABLE posts DROP description; ALTER TABLE posts ADD description text DEFAULT 'new'; COMMIT", Then::Copied),
    Migration {
        writes: "UPDATE posts SET title = 'After' WHERE id = 99; DELETE FROM votes WHERE id = 1;",
        events: &["post.updated 99", "vote.deleted 1"],
        ..migration("a mapped table is dropped", "DROP TABLE comments", Then::GoesOn)
    },
    Migration {
        schema: PARTITIONED,
        writes: "UPDATE posts SET title = 'After' WHERE id = 98;",
        says: ("/post/title", "After"),
        events: &["vote.deleted 1", "vote.deleted 1500", "vote.deleted 3", "post.updated 98"],
        ..migration("a partitioned table is truncated", "TRUNCATE votes", Then::Copied)
    },
    Migration {
        writes: "INSERT INTO posts (id, title, user_id, portal_id) VALUES (100, 'After', 48, 4);",
        events: &["post.deleted 98", "post.deleted 99", "vote.deleted 1", "vote.deleted 3", "post.created 100"],
        ..migration("a table is truncated with those that refer to it", "TRUNCATE posts CASCADE", Then::Copied)
    },
    migration("a table is renamed", "ALTER TABLE votes RENAME TO likes; CREATE VIEW votes AS SELECT * FROM likes;", Then::GoesOn),
    migration(
        "tables move to another schema",
        "CREATE SCHEMA app; ALTER TABLE posts SET SCHEMA app; ALTER TABLE votes SET SCHEMA app;
         SELECT set_config('search_path', 'app, public', false);
         DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = app, public', current_database()); END $$;",
        Then::GoesOn,
    ),
    migration(
        "the primary key is made anew",
        "BEGIN; ALTER TABLE votes DROP CONSTRAINT votes_pkey; ALTER TABLE votes ADD PRIMARY KEY (id); COMMIT;
         CREATE UNIQUE INDEX posts_new ON posts (id);
         ALTER TABLE posts ADD CONSTRAINT posts_again UNIQUE USING INDEX posts_new;",
        Then::GoesOn,
    ),
    Migration {
        schema: "ALTER TABLE posts ADD COLUMN code text; UPDATE posts SET code = 'p' || id; ALTER TABLE posts ALTER code SET NOT NULL;",
        ..migration(
            "another primary key",
            "BEGIN; ALTER TABLE posts DROP CONSTRAINT posts_pkey CASCADE; ALTER TABLE posts ADD PRIMARY KEY (code); COMMIT;",
            Then::Copied,
        )
    },
    migration("a stored generated column", "ALTER TABLE posts ADD COLUMN loud text GENERATED ALWAYS AS (upper(title)) STORED", Then::Copied),
    Migration {
        from: 18,
        ..migration("a virtual generated column", "ALTER TABLE posts ADD COLUMN loud text GENERATED ALWAYS AS (upper(title))", Then::GoesOn)
    },
    Migration {
        schema: "CREATE TYPE state AS ENUM ('open', 'done'); ALTER TABLE posts ALTER status DROP DEFAULT, ALTER status TYPE state USING status::state;",
        writes: "UPDATE posts SET status = 'planned', title = 'After' WHERE id = 99; DELETE FROM votes WHERE id = 1;",
        events: &["post.status_changed 99", "post.updated 99", "vote.deleted 1"],
        says: ("/vote/id", "1"),
        ..migration("an enum value is added", "ALTER TYPE state ADD VALUE 'planned' BEFORE 'done'", Then::GoesOn)
    },
    Migration {
        schema: "CREATE TYPE state AS ENUM ('open', 'done'); ALTER TABLE posts ALTER status DROP DEFAULT, ALTER status TYPE state USING status::state;",
        writes: "UPDATE posts SET title = 'After' WHERE id = 99; DELETE FROM votes WHERE id = 1; UPDATE posts SET status = 'done' WHERE id = 99",
        events: &["post.updated 99", "vote.deleted 1", "post.status_changed 99"],
        ..migration("an enum value is renamed", "ALTER TYPE state RENAME VALUE 'open' TO 'new'", Then::Copied)
    },
    Migration {
        writes: "DELETE FROM votes WHERE id = 1; UPDATE posts SET title = 'After' WHERE id = 99;
                 INSERT INTO votes (id, post_id, user_id) VALUES (2, 99, 49);",
        events: &["vote.created 7", "vote.deleted 1", "post.updated 99", "vote.created 2"],
        ..migration(
            "a table is made anew",
            "BEGIN; CREATE TEMP TABLE kept AS SELECT * FROM votes; DROP TABLE votes;
             CREATE TABLE votes (id int PRIMARY KEY, post_id int, user_id int, created_at timestamptz DEFAULT now());
             INSERT INTO votes SELECT * FROM kept; INSERT INTO votes VALUES (7, 99, 48); COMMIT;",
            Then::Compared,
        )
    },
    Migration {
        events: &["post.updated 98", "post.updated 99", "vote.created 2", "vote.deleted 1"],
        ..migration(
            "tables are swapped by renaming",
            "BEGIN; CREATE TABLE posts_new (LIKE posts INCLUDING ALL); INSERT INTO posts_new SELECT * FROM posts;
             UPDATE posts_new SET title = 'Swapped' WHERE id = 98;
             ALTER TABLE posts RENAME TO posts_old; ALTER TABLE posts_new RENAME TO posts; COMMIT;",
            Then::Compared,
        )
    },
    Migration {
        schema: PARTITIONED,
        events: &["post.updated 99", "vote.created 2", "vote.deleted 1"],
        ..migration("an empty partition is made", "CREATE TABLE votes_3 PARTITION OF votes FOR VALUES FROM (2000) TO (3000);", Then::GoesOn)
    },
    Migration {
        schema: PARTITIONED,
        writes: "DELETE FROM votes WHERE id = 2500; UPDATE votes SET user_id = 49 WHERE id = 2501; UPDATE posts SET title = 'After' WHERE id = 99; DELETE FROM votes WHERE id = 1;",
        events: &["vote.deleted 2500", "vote.deleted 2501", "vote.created 2501", "post.updated 99", "vote.deleted 1"],
        ..migration(
            "a partition with rows is attached",
            "CREATE TABLE votes_3 (LIKE votes INCLUDING ALL); INSERT INTO votes_3 (id, post_id, user_id) VALUES (2500, 99, 48), (2501, 99, 48);
             ALTER TABLE votes ATTACH PARTITION votes_3 FOR VALUES FROM (2000) TO (3000);",
            Then::Copied,
        )
    },
    Migration {
        schema: PARTITIONED,
        writes: "INSERT INTO votes_2 (id, post_id, user_id) VALUES (1501, 99, 48); UPDATE posts SET title = 'After' WHERE id = 99; DELETE FROM votes WHERE id = 1;",
        events: &["post.updated 99", "vote.deleted 1"],
        ..migration("a partition is detached", "ALTER TABLE votes DETACH PARTITION votes_2", Then::Copied)
    },
    Migration {
        schema: PARTITIONED,
        events: &["vote.deleted 1500", "post.updated 99", "vote.created 2", "vote.deleted 1"],
        ..migration("a partition is truncated", "TRUNCATE votes_2", Then::Compared)
    },
    Migration {
        schema: PARTITIONED,
        writes: "UPDATE posts SET title = 'After' WHERE id = 99; DELETE FROM votes WHERE id = 1;",
        events: &["post.updated 99", "vote.deleted 1"],
        ..migration("a partition is detached concurrently", "ALTER TABLE votes DETACH PARTITION votes_2 CONCURRENTLY", Then::Copied)
    },
    Migration {
        events: &["post.updated 98", "post.updated 99", "vote.created 2", "vote.deleted 1"],
        ..migration(
            "tables are swapped, with other columns in another order and a larger key",
            "BEGIN; CREATE TABLE posts_new AS SELECT created_at, title, 1 AS more, deleted_at, portal_id, user_id, status, description, id::bigint AS id FROM posts;
             ALTER TABLE posts_new ADD PRIMARY KEY (id); UPDATE posts_new SET title = 'Swapped' WHERE id = 98;
             ALTER TABLE posts RENAME TO posts_old; ALTER TABLE posts_new RENAME TO posts; COMMIT;",
            Then::Compared,
        )
    },
    Migration {
        writes: "UPDATE posts SET title = 'After' WHERE id = 99; DELETE FROM votes WHERE id = '00000000-0000-0000-0000-000000000001';",
        events: &[
            "post.updated 99",
            "vote.deleted 00000000-0000-0000-0000-000000000001",
        ],
        ..migration(
            "tables are swapped, with another kind of key",
            "BEGIN; CREATE TABLE votes_new AS SELECT ('00000000-0000-0000-0000-00000000000' || id)::uuid AS id, post_id, user_id, created_at FROM votes;
             ALTER TABLE votes_new ADD PRIMARY KEY (id); ALTER TABLE votes RENAME TO votes_old; ALTER TABLE votes_new RENAME TO votes; COMMIT;",
            Then::Compared,
        )
    },
    Migration {
        schema: "ALTER TABLE votes ADD COLUMN code text NOT NULL DEFAULT md5(random()::text);",
        writes: "UPDATE posts SET title = 'After' WHERE id = 99; DELETE FROM votes; INSERT INTO votes (code, post_id, user_id) VALUES ('a', 99, 49);",
        // By their old ids, and by their new ones.
        events: &["post.updated 99", "vote.deleted 1", "vote.deleted 3", "vote.created a"],
        ..migration(
            "another key, and the old one is dropped",
            "ALTER TABLE votes DROP COLUMN id; ALTER TABLE votes ADD PRIMARY KEY (code);",
            Then::PausedAndCompared("UPDATE portalhook.mapping SET query = 'SELECT code AS id, post_id AS post, user_id AS voter, created_at FROM votes' WHERE entity = 'votes'"),
        )
    },
    migration(
        "the primary key is dropped and made anew in another transaction",
        "ALTER TABLE votes DROP CONSTRAINT votes_pkey;
         ALTER TABLE votes ADD PRIMARY KEY (id);",
        Then::GoesOn,
    ),
    migration("a table moves to another schema and back", "CREATE SCHEMA app; ALTER TABLE votes SET SCHEMA app; ALTER TABLE app.votes SET SCHEMA public;", Then::GoesOn),
    Migration {
        writes: "DELETE FROM votes WHERE id = 1;",
        events: &["vote.deleted 1"],
        says: ("/post/title", "This is a great idea"),
        ..migration("a mapped table is dropped with what refers to it", "DROP TABLE posts CASCADE", Then::GoesOn)
    },
    migration(
        "a table is made anew without the columns that are mapped",
        "DROP TABLE comments; CREATE TABLE comments (id int PRIMARY KEY, post_id int, user_id int); INSERT INTO comments VALUES (1, 99, 49);",
        Then::GoesOn,
    ),
    Migration {
        writes: "DELETE FROM votes WHERE id = 101; UPDATE votes SET user_id = 48 WHERE id = 103; UPDATE posts SET title = 'After' WHERE id = 99;",
        events: &["vote.deleted 101", "vote.deleted 103", "vote.created 103", "post.updated 99"],
        ..migration("keys get other values without a word", "ALTER TABLE votes ALTER id TYPE int USING id + 100", Then::Copied)
    },
    migration("a column comes with a default that rewrites the table", "ALTER TABLE posts ADD COLUMN token text DEFAULT md5(random()::text)", Then::Copied),
    migration("another one publishes everything", "CREATE PUBLICATION all_of_it FOR ALL TABLES", Then::GoesOn),
    Migration {
        events: &["vote.deleted 3", "post.updated 99", "vote.created 2", "vote.deleted 1"],
        ..migration(
            "a mapped column is dropped and added in another transaction",
            "ALTER TABLE posts DROP description; UPDATE posts SET views = 1; DELETE FROM votes WHERE id = 3; UPDATE posts SET views = 2; ALTER TABLE posts ADD description text DEFAULT 'new'",
            Then::Copied,
        )
    },
];
