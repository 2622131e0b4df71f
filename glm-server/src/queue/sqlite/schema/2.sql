-- Whose limits a task uses up when it runs.
ALTER TABLE task ADD COLUMN payer TEXT;
