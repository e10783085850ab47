/**
 * The tenants of whom jobs wait in a queue, as the recursive part `tenant (tenant_id)` of a statement: from tenant to tenant by one
 * probe each into the index of what waits, so that the length of the backlog costs nothing. The last row is NULL.
 * @param queue an expression: a parameter, or a column of an outer query.
 * @param max most tenants; without it, all.
 */
export function waitingTenantsSql(queue: string, max?: number): string {
  const waiting = (more: string): string =>
    `SELECT j.tenant_id FROM jobs j WHERE j.queue = ${queue} AND j.state = 'queued' AND j.dispatched_at IS NULL${more}
     ORDER BY j.tenant_id LIMIT 1`;
  // Counted only where there is a limit.
  const place = (expression: string): string => (max === undefined ? '' : `, ${expression}`);
  return `tenant (tenant_id${place('place')}) AS (
    SELECT (${waiting('')})${place('1')}
    UNION ALL
    SELECT (${waiting(' AND j.tenant_id > t.tenant_id')})${place('t.place + 1')}
    FROM tenant t WHERE t.tenant_id IS NOT NULL${max === undefined ? '' : ` AND t.place < ${max}`}
  )`;
}
