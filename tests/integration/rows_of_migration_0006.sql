-- Rows in every table of migration 0006, as the first edition wrote them: an agent that rings, one whose removal is
-- under way, one that failed, one deleted; a bulk at work; an audit; a webhook whose secret was rotated.

INSERT INTO api_keys (id, name, key_hash, scopes, created_at, last_used_at, revoked_at) VALUES
    ('10000000-0000-4000-8000-000000000001', 'backend', encode(sha256('tl_old-admin-key'), 'hex'), '{admin}',
     '2026-01-02 03:04:05+00', '2026-01-03 00:00:00+00', NULL),
    ('10000000-0000-4000-8000-000000000002', 'dashboard', encode(sha256('tl_old-read-key'), 'hex'), '{read}',
     '2026-01-02 03:04:06+00', NULL, NULL),
    ('10000000-0000-4000-8000-000000000003', 'lost', encode(sha256('tl_old-revoked-key'), 'hex'), '{read,write}',
     '2026-01-02 03:04:07+00', NULL, '2026-01-04 00:00:00+00');

INSERT INTO idempotency_keys (api_key_id, key, request_hash, status, headers, body, locked_until) VALUES
    ('10000000-0000-4000-8000-000000000001', 'order-1', repeat('ab', 32), 202, '{}', '{"success": true}', now());

INSERT INTO agents (id, name, livekit_agent_name, metadata, phone_provisioning_status, twilio_phone_number,
                    twilio_phone_number_sid, twilio_trunk_sid, twilio_origination_url_sid, livekit_inbound_trunk_id,
                    livekit_dispatch_rule_id, previous_routing, health_state, health_checked_at, health_findings,
                    deleted_at) VALUES
    ('20000000-0000-4000-8000-000000000001', 'front desk', 'front-desk', '{"tone": "kind"}', 'PROVISIONED',
     '+15145550101', 'PN' || repeat('1', 32), 'TK' || repeat('1', 32), 'OU' || repeat('1', 32), 'ST_first1234567',
     'SDR_first123456',
     '{"trunk_sid": null, "voice_application_sid": null, "voice_url": "https://example.com/voice"}',
     'DRIFTED', '2026-01-05 00:00:00+00',
     '[{"code": "origination_url_disabled", "severity": "critical", "detail": "", "fix": "repair", "fixed": null,
        "sentence": "The origination URL is disabled.", "agentId": "20000000-0000-4000-8000-000000000001",
        "resource": {"kind": "twilio_origination_url", "id": "OU11111111111111111111111111111111"}}]', NULL),
    ('20000000-0000-4000-8000-000000000002', 'night line', 'night-line', '{}', 'DEPROVISIONING', '+15145550102',
     'PN' || repeat('2', 32), 'TK' || repeat('2', 32), 'OU' || repeat('2', 32), 'ST_second123456',
     'SDR_second12345', NULL, 'IN_SYNC', '2026-01-05 00:00:00+00', '[]', NULL),
    ('20000000-0000-4000-8000-000000000003', 'sales', 'sales', '{}', 'FAILED', NULL, NULL, NULL, NULL, NULL, NULL,
     NULL, 'UNKNOWN', NULL, '[]', NULL),
    ('20000000-0000-4000-8000-000000000004', 'gone', 'gone', '{}', 'NOT_PROVISIONED', NULL, NULL, NULL, NULL, NULL,
     NULL, NULL, 'UNKNOWN', NULL, '[]', '2026-01-06 00:00:00+00');

INSERT INTO bulks (id, status, created_by, request_id, total, pending, running, succeeded, failed, cancelled,
                   started_at) VALUES
    ('30000000-0000-4000-8000-000000000001', 'running', 'backend', 'bulk-request', 2, 0, 0, 1, 1, 0,
     '2026-01-05 00:00:00+00');

INSERT INTO operations (id, agent_id, kind, phone_number, takeover, status, epoch, wake_at, idle_kicks, error_code,
                        error_detail, request_id, requested_by, started_at, cancelled_at, finished_at,
                        target_agent_id, bulk_id) VALUES
    ('40000000-0000-4000-8000-000000000001', '20000000-0000-4000-8000-000000000001', 'provision', '+15145550101',
     true, 'succeeded', 0, NULL, 0, NULL, NULL, 'bulk-request', 'backend', '2026-01-05 00:00:01+00', NULL,
     '2026-01-05 00:00:04+00', NULL, '30000000-0000-4000-8000-000000000001'),
    ('40000000-0000-4000-8000-000000000002', '20000000-0000-4000-8000-000000000002', 'deprovision', '+15145550102',
     false, 'running', 0, '2126-01-01 00:00:00+00', 1, NULL, NULL, 'r2', 'dashboard', '2026-01-05 00:00:02+00', NULL,
     NULL, NULL, NULL),
    ('40000000-0000-4000-8000-000000000003', '20000000-0000-4000-8000-000000000003', 'provision', '+15145550103',
     false, 'failed', 1, NULL, 0, 'number_not_found', 'The account has no such number.', 'bulk-request', 'backend',
     '2026-01-05 00:00:03+00', NULL, '2026-01-05 00:00:05+00', NULL, '30000000-0000-4000-8000-000000000001'),
    ('40000000-0000-4000-8000-000000000004', '20000000-0000-4000-8000-000000000004', 'move', '+15145550101', false,
     'succeeded', 0, NULL, 0, NULL, NULL, NULL, 'backend', '2026-01-04 00:00:00+00', NULL, '2026-01-04 00:00:01+00',
     '20000000-0000-4000-8000-000000000001', NULL);

INSERT INTO operation_steps (operation_id, name, position, state, attempts, intent, resource_id, error_code,
                             error_detail, started_at, finished_at) VALUES
    ('40000000-0000-4000-8000-000000000001', 'twilio_trunk', 1, 'DONE', 1, NULL, 'TK' || repeat('1', 32), NULL, NULL,
     '2026-01-05 00:00:01+00', '2026-01-05 00:00:02+00'),
    ('40000000-0000-4000-8000-000000000002', 'twilio_number_attachment', 0, 'RUNNING', 2, '{}', NULL,
     'provider_unavailable', 'Twilio is not reached.', '2026-01-05 00:00:02+00', NULL),
    ('40000000-0000-4000-8000-000000000003', 'twilio_number', 0, 'FAILED', 1, NULL, NULL, 'number_not_found',
     'The account has no such number.', '2026-01-05 00:00:03+00', '2026-01-05 00:00:04+00');

INSERT INTO events (operation_id, step, event, detail) VALUES
    ('40000000-0000-4000-8000-000000000001', 'twilio_trunk', 'step_done', '{"took_s": 0.4}'),
    ('40000000-0000-4000-8000-000000000002', NULL, 'operation_started', '{}');

INSERT INTO resources (provider, kind, external_id, agent_id, operation_id, parent_id, deleted_at) VALUES
    ('twilio', 'twilio_trunk', 'TK' || repeat('1', 32), '20000000-0000-4000-8000-000000000001',
     '40000000-0000-4000-8000-000000000001', NULL, NULL),
    ('twilio', 'twilio_origination_url', 'OU' || repeat('1', 32), '20000000-0000-4000-8000-000000000001',
     '40000000-0000-4000-8000-000000000001', 'TK' || repeat('1', 32), NULL),
    ('livekit', 'livekit_inbound_trunk', 'ST_before123456', '20000000-0000-4000-8000-000000000003',
     '40000000-0000-4000-8000-000000000003', NULL, '2026-01-05 00:00:05+00');

INSERT INTO bulk_items (bulk_id, position, agent_id, phone_number, takeover, status, operation_id, error_code,
                        error_detail) VALUES
    ('30000000-0000-4000-8000-000000000001', 0, '20000000-0000-4000-8000-000000000001', '+15145550101', true,
     'succeeded', '40000000-0000-4000-8000-000000000001', NULL, NULL),
    ('30000000-0000-4000-8000-000000000001', 1, '20000000-0000-4000-8000-000000000003', '+15145550103', false,
     'failed', '40000000-0000-4000-8000-000000000003', 'number_not_found', 'The account has no such number.');

INSERT INTO audits (id, status, fix, requested_by, agents_checked, findings, started_at, finished_at) VALUES
    ('50000000-0000-4000-8000-000000000001', 'done', false, 'sweeper', 2,
     '[{"code": "origination_url_disabled", "severity": "critical", "detail": "", "fix": "repair", "fixed": null,
        "sentence": "The origination URL is disabled.", "agentId": "20000000-0000-4000-8000-000000000001",
        "resource": {"kind": "twilio_origination_url", "id": "OU11111111111111111111111111111111"}}]',
     '2026-01-05 00:00:00+00', '2026-01-05 00:00:09+00');

INSERT INTO webhook_endpoints (id, url, description, events, secret, previous_secret, previous_secret_until) VALUES
    ('60000000-0000-4000-8000-000000000001', 'https://hooks.example.com/trunkline', 'billing', '{phone.provisioned}',
     'whsec_b2xkLXNlY3JldC1vZi10aGUtZmlyc3QtZWRpdGlvbg==', 'whsec_ZXZlbi1vbGRlci1zZWNyZXQtYmVmb3JlLXRoYXQ=',
     '2126-01-01 00:00:00+00');

INSERT INTO webhook_deliveries (id, endpoint_id, event, payload, status, attempts, next_at, last_attempt_at,
                                response_status, finished_at) VALUES
    ('70000000-0000-4000-8000-000000000001', '60000000-0000-4000-8000-000000000001', 'phone.provisioned', '{"a": 1}',
     'delivered', 1, NULL, '2026-01-05 00:00:06+00', 200, '2026-01-05 00:00:06+00'),
    ('70000000-0000-4000-8000-000000000002', '60000000-0000-4000-8000-000000000001', 'phone.drifted', '{"a": 2}',
     'pending', 3, '2126-01-01 00:00:00+00', '2026-01-05 00:00:07+00', 503, NULL);
