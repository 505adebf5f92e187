-- What a post, a vote, a comment, a user and a portal are in the sample portal: all that an operator writes.

CREATE VIEW portalhook.posts AS
SELECT id, title, description, status, user_id AS author, portal_id AS portal, created_at
FROM public.posts
WHERE deleted_at IS NULL;

CREATE VIEW portalhook.votes AS
SELECT id, post_id AS post, user_id AS voter, created_at
FROM public.votes;

CREATE VIEW portalhook.comments AS
SELECT id, post_id AS post, user_id AS author, body AS comment, created_at
FROM public.comments;

CREATE VIEW portalhook.users AS
SELECT id, name, email, role
FROM public.users;

CREATE VIEW portalhook.portals AS
SELECT id, title
FROM public.portals;
