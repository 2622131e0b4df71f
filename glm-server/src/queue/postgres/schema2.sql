-- Whose limits a task uses up when it runs.
ALTER TABLE task ADD COLUMN payer TEXT;
UPDATE queue_schema SET version = 2;
