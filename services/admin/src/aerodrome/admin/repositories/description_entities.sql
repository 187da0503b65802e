-- name: get
SELECT de.resource_type, de.project, de.domain, de.name, de.version, de.short_description, de.long_description, de.link
FROM description_entities de
WHERE de.resource_type = $1 AND de.project = $2 AND de.domain = $3 AND de.name = $4 AND de.version = $5
