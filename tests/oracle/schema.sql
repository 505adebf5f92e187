-- An application with everything that hurts: keys that change, ids that are not keys, long texts apart from their rows,
-- columns that no SELECT reads, references without rows, cascades, and joins.

CREATE TABLE portals (id int PRIMARY KEY, title text NOT NULL, theme int NOT NULL DEFAULT 0);

-- posts name their status without a foreign key: a status may be missing.
CREATE TABLE statuses (id int PRIMARY KEY, name text NOT NULL, visible bool NOT NULL DEFAULT true, color int NOT NULL DEFAULT 0);

CREATE TABLE users (
    id int PRIMARY KEY, name text, email text, role text NOT NULL DEFAULT 'user', banned bool NOT NULL DEFAULT false,
    seen int NOT NULL DEFAULT 0
);

CREATE TABLE posts (
    votes_count int NOT NULL DEFAULT 0,
    pk bigint PRIMARY KEY,
    number int NOT NULL UNIQUE,
    title text NOT NULL,
    description text,
    status_id int,
    author_id int REFERENCES users ON DELETE SET NULL ON UPDATE CASCADE,
    portal_id int REFERENCES portals ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED,
    held bool NOT NULL DEFAULT false,
    pinned bool,
    merged_into bigint,
    views int NOT NULL DEFAULT 0,
    deleted_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE posts ALTER description SET STORAGE EXTERNAL;

CREATE TABLE votes (
    post_number int REFERENCES posts (number) ON DELETE CASCADE ON UPDATE CASCADE,
    user_id int REFERENCES users ON DELETE CASCADE ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED,
    token int NOT NULL UNIQUE,
    weight int NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (post_number, user_id)
);

-- Authors without a foreign key: some never were.
CREATE TABLE comments (
    id int PRIMARY KEY, post_number int REFERENCES posts (number) ON DELETE CASCADE ON UPDATE CASCADE, user_id int,
    body text, hidden bool NOT NULL DEFAULT false, likes int NOT NULL DEFAULT 0,
    created_at timestamp NOT NULL DEFAULT '2024-02-29 12:00'
);
ALTER TABLE comments ALTER body SET STORAGE EXTERNAL;

CREATE TABLE comment_likes (
    comment_id int REFERENCES comments ON DELETE CASCADE ON UPDATE CASCADE, user_id int, PRIMARY KEY (user_id, comment_id)
);

CREATE TABLE audit (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text);

INSERT INTO portals VALUES (1, 'First'), (2, 'Second');
INSERT INTO statuses VALUES (1, 'open', true), (2, 'planned', true), (3, 'secret', false);
INSERT INTO users VALUES (1, 'Ann', 'ann@a.example', 'admin'), (2, 'Ben', 'ben@a.example', 'user'), (3, 'Cem', NULL, 'user'),
    (4, NULL, 'd@a.example', 'user');
INSERT INTO posts (pk, number, title, description, status_id, author_id, portal_id) VALUES
    (9, 1, 'One', 'Short', 1, 1, 1), (8, 2, 'Two', repeat(md5('two'), 90), 2, 2, 1), (7, 3, 'Three', NULL, 3, NULL, 2),
    (6, 4, 'Four', repeat(md5('four'), 90), 9, 3, NULL), (5, 5, 'Five', '', NULL, 4, 2);
INSERT INTO votes (post_number, user_id, token) VALUES (1, 1, 1), (1, 2, 2), (2, 1, 3), (3, 3, 4);
INSERT INTO comments (id, post_number, user_id, body) VALUES (1, 1, 1, 'Yes'), (2, 1, 99, 'No'), (3, 2, NULL, repeat(md5('c'), 90));
INSERT INTO comment_likes VALUES (1, 1), (1, 2), (2, 1);
