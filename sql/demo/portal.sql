-- A small feedback portal, as an application would have it: nothing in it knows of webhooks.

CREATE TABLE portals (
    id    integer PRIMARY KEY,
    title text NOT NULL
);

CREATE TABLE users (
    id            integer PRIMARY KEY,
    name          text NOT NULL,
    email         text,
    role          text NOT NULL DEFAULT 'user',
    password_hash text NOT NULL DEFAULT 'never-send'
);

-- A post is deleted softly, by its time.
CREATE TABLE posts (
    id          integer PRIMARY KEY,
    title       text NOT NULL,
    description text,
    status      text NOT NULL DEFAULT 'open',
    user_id     integer REFERENCES users,
    portal_id   integer NOT NULL REFERENCES portals,
    views       integer NOT NULL DEFAULT 0,
    created_at  timestamptz NOT NULL DEFAULT now(),
    deleted_at  timestamptz
);

CREATE TABLE votes (
    id         integer PRIMARY KEY,
    post_id    integer NOT NULL REFERENCES posts ON DELETE CASCADE,
    user_id    integer REFERENCES users,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE comments (
    id         integer PRIMARY KEY,
    post_id    integer NOT NULL REFERENCES posts ON DELETE CASCADE,
    user_id    integer REFERENCES users,
    body       text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

INSERT INTO portals (id, title) VALUES (4, 'Test Portal');
INSERT INTO users (id, name, email, role) VALUES
    (48, 'Rubenb', 'ruben@abc.nl', 'admin'),
    (49, 'Mara', 'mara@example.com', 'user');
INSERT INTO posts (id, title, description, user_id, portal_id, created_at) VALUES
    (98, 'Keyboard shortcuts', 'For everything.', 49, 4, '2022-05-01 09:00:00+00'),
    (99, 'This is a great idea', 'Wow. This is the best idea I have ever seen!', 48, 4, '2022-05-02 10:30:00+00');
