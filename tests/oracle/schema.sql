-- An application with everything that hurts: keys that change, ids that are not keys, long texts apart from their rows,
-- columns that no SELECT reads, references without rows, cascades, and joins.

CREATE TYPE mood AS ENUM ('calm', 'so ''so', 'cross');
CREATE TABLE portals (id int PRIMARY KEY, title text NOT NULL, theme int NOT NULL DEFAULT 0);

-- posts name their status without a foreign key: a status may be missing.
CREATE TABLE statuses (id int PRIMARY KEY, name text NOT NULL, visible bool NOT NULL DEFAULT true, color int NOT NULL DEFAULT 0);

-- Ids that every kind of quoting has to get right.
CREATE TABLE users (
    id text PRIMARY KEY, name text, email text, role text NOT NULL DEFAULT 'user', banned bool NOT NULL DEFAULT false,
    seen int NOT NULL DEFAULT 0
);

CREATE TABLE posts (
    votes_count int NOT NULL DEFAULT 0,
    pk bigint PRIMARY KEY,
    number int NOT NULL UNIQUE,
    title text NOT NULL,
    description text,
    status_id int,
    author_id text REFERENCES users ON DELETE SET NULL ON UPDATE CASCADE,
    portal_id int REFERENCES portals ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED,
    held bool NOT NULL DEFAULT false,
    pinned bool,
    merged_into bigint,
    score numeric,
    mood mood,
    tags text[],
    meta jsonb,
    slug text GENERATED ALWAYS AS (lower(title)) STORED,
    views int NOT NULL DEFAULT 0,
    deleted_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE posts ALTER description SET STORAGE EXTERNAL;

CREATE TABLE votes (
    post_number int REFERENCES posts (number) ON DELETE CASCADE ON UPDATE CASCADE,
    user_id text REFERENCES users ON DELETE CASCADE ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED,
    token int NOT NULL UNIQUE,
    weight int NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (post_number, user_id)
);

-- Authors without a foreign key: some never were.
CREATE TABLE comments (
    id int PRIMARY KEY, post_number int REFERENCES posts (number) ON DELETE CASCADE ON UPDATE CASCADE, user_id text,
    body text, hidden bool NOT NULL DEFAULT false, likes int NOT NULL DEFAULT 0,
    created_at timestamp NOT NULL DEFAULT '2024-02-29 12:00'
);
ALTER TABLE comments ALTER body SET STORAGE EXTERNAL;

CREATE TABLE comment_likes (
    comment_id int REFERENCES comments ON DELETE CASCADE ON UPDATE CASCADE, user_id text, PRIMARY KEY (user_id, comment_id)
);

CREATE TABLE audit (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text);

INSERT INTO portals VALUES (1, 'First'), (2, 'Second');
INSERT INTO statuses VALUES (1, 'open', true), (2, 'planned', true), (3, 'secret', false);
INSERT INTO users VALUES ('a,b', 'Ann', 'ann@a.example', 'admin'), ('ü "2"', 'Ben', 'ben@a.example', 'user'),
    (E'c\\3', 'Cem', NULL, 'user'), ('', NULL, 'd@a.example', 'user');
INSERT INTO posts (pk, number, title, description, status_id, author_id, portal_id, score, mood, tags, meta) VALUES
    (9, 1, 'One', 'Short', 1, 'a,b', 1, 1.0, 'calm', '{a,NULL}', '{"k": [1.50, null]}'),
    (8, 2, 'Two', repeat(md5('two'), 90), 2, 'ü "2"', 1, 1.00, 'so ''so', '{}', NULL),
    (7, 3, 'Three', NULL, 3, NULL, 2, NULL, NULL, '{"x y","\"q\\"}', 'null'),
    (6, 4, 'Four', repeat(md5('four'), 90), 9, E'c\\3', NULL, 'NaN', 'cross', NULL, '"text"'),
    (5, 5, 'Five', '', NULL, '', 2, 0, NULL, NULL, NULL);
INSERT INTO votes (post_number, user_id, token) VALUES (1, 'a,b', 1), (1, 'ü "2"', 2), (2, 'a,b', 3), (3, '', 4);
INSERT INTO comments (id, post_number, user_id, body) VALUES
    (1, 1, 'a,b', 'Yes'), (2, 1, 'nobody', 'No'), (3, 2, NULL, repeat(md5('c'), 90));
INSERT INTO comment_likes VALUES (1, 'a,b'), (1, 'ü "2"'), (2, E'c\\3');
