// Several volumes by csi-volume-config, by the JS SDK.
import assert from 'node:assert/strict'
import { Sandbox } from 'e2b'

const metadata = (...volumes) => ({ 'e2b.agents.kruise.io/csi-volume-config': JSON.stringify(volumes) })
const template = process.env.TEMPLATE

await assert.rejects(Sandbox.create(template, { metadata: metadata({ pvName: 'no-such-pv', mountPath: '/a' }) }), /csi-volume-config\[0\]\.pvName/)

const sandbox = await Sandbox.create(template, { timeoutMs: 120_000, envs: { WHO: 'me' }, metadata: metadata(
  { pvName: 'scratch', mountPath: '/scratch' },
  { pvName: 'oss-pv-sandbox-system', mountPath: '/data', subPath: 'js' },
  { pvName: 'oss-pv-sandbox-system', mountPath: '/data-ro', subPath: 'js', readOnly: true }) })
try {
  const run = async (c) => (await sandbox.commands.run(c)).stdout.trim()
  assert.equal(await run('echo $WHO $E2B_SANDBOX_ID'), `me ${sandbox.sandboxId}`)
  await run('echo one > /scratch/a && echo two > /data/b')
  assert.equal(await run('cat /scratch/a /data-ro/b'), 'one\ntwo')
  assert.match(await run('touch /data-ro/c 2>&1 || true'), /Read-only file system$/)
  await sandbox.files.write('/data/d', 'by the files API')
  assert.equal(await sandbox.files.read('/data/d'), 'by the files API')
  const listed = (await Sandbox.list().nextItems()).map((s) => s.sandboxId)
  assert.deepEqual(listed, [sandbox.sandboxId])
} finally {
  assert.equal(await sandbox.kill(), true)
}
assert.equal(await sandbox.kill(), false, 'a second kill finds nothing')
console.log('volumes: ok')
