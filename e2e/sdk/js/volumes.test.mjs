import { describe, it } from 'node:test'
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Sandbox } from 'e2b'
import { Sandbox as Interpreter } from '@e2b/code-interpreter'
import { config, eventually, tag, volume, withSandbox } from './support.mjs'

const run = async (box, command, options) => (await box.commands.run(command, options)).stdout
const fails = (box, command, options) => run(box, `(${command}) 2>&1; echo status=$?`, options)

describe('volumes', () => {
  it("do the contract's example with an object store", async () => {
    const name = tag()
    await withSandbox({ metadata: volume('oss-pv-sandbox-system', '/data-oss', 'data-subPath') }, async (box) => {
      assert.equal(await run(box, 'stat -c %U /data-oss'), 'user\n')
      await run(box, `echo from-a-command > /data-oss/${name}`)
      await box.files.write(`/data-oss/${name}.api`, 'from the files API')
      assert.equal(await box.files.read(`/data-oss/${name}`), 'from-a-command\n')
    }, { template: 'code-interpreter-inject-test', Class: Interpreter })
    const bucket = join(process.env.WORLD_BUCKET, 'data-subPath')
    assert.equal(readFileSync(join(bucket, name), 'utf8'), 'from-a-command\n')
    assert.equal(readFileSync(join(bucket, name + '.api'), 'utf8'), 'from the files API')
  })

  it('in memory have their size', () => withSandbox({ metadata: volume('scratch', '/data') }, async (box) => {
    assert.equal(await run(box, 'stat -fc %T /data; stat -c %U /data'), 'tmpfs\nuser\n')
    assert.match(await fails(box, 'dd if=/dev/zero of=/data/big bs=1M count=20'), /No space left[^]*status=1/)
  }))

  it('come several in one array, which wins over single keys', async () => {
    const name = tag()
    const mounts = config({ pvName: 'scratch', mountPath: '/data/fast' }, { pvName: 'shared', mountPath: '/data/host', subPath: name })
    await withSandbox({ metadata: { ...volume('shared', '/single'), ...mounts } }, async (box) => {
      await run(box, 'echo a > /data/fast/f; echo b > /data/host/f')
      assert.equal(await run(box, 'test -e /single || echo absent'), 'absent\n')
    })
    assert.equal(readFileSync(join(process.env.WORLD_SHARED, name, 'f'), 'utf8'), 'b\n')
  })

  it('outlive sandboxes on a host path', async () => {
    const metadata = volume('shared', '/data', `${tag()}/deep`)
    await withSandbox({ metadata }, (box) => run(box, 'echo kept > /data/f'))
    await withSandbox({ metadata }, async (box) => assert.equal(await run(box, 'cat /data/f'), 'kept\n'))
  })

  it('are read-only for root too when so asked', async () => {
    const mounts = config({ pvName: 'shared', mountPath: '/data', subPath: tag() })
    const readOnly = { ...mounts }
    for (const key of Object.keys(readOnly)) readOnly[key] = JSON.stringify(JSON.parse(readOnly[key]).map((m) => ({ ...m, readOnly: true })))
    await withSandbox({ metadata: mounts }, (box) => run(box, 'echo original > /data/f'))
    await withSandbox({ metadata: readOnly }, async (box) => {
      assert.equal(await run(box, 'cat /data/f'), 'original\n')
      assert.match(await fails(box, 'touch /data/new', { user: 'root' }), /Read-only file system/)
      assert.doesNotMatch(await fails(box, 'mount -o remount,rw /data', { user: 'root' }), /status=0/)
    })
  })

  it("come by the SDK's own volumeMounts too", () => withSandbox({ volumeMounts: { '/data': 'scratch' } }, async (box) => {
    assert.equal(await run(box, 'stat -fc %T /data'), 'tmpfs\n')
    assert.deepEqual((await box.getInfo()).volumeMounts?.map((m) => [m.name, m.path]), [['scratch', '/data']])
  }))

  for (const [name, metadata, place] of [
    ['an unknown volume', volume('no-such-volume', '/data'), /csi-volume-name: no PersistentVolume/],
    ["somebody's claimed volume", volume('claimed', '/data'), /csi-volume-name: no PersistentVolume/],
    ['a relative mount point', volume('scratch', 'data'), /csi-mount-point/],
    ['a target below /etc', volume('scratch', '/etc/x'), /csi-mount-point/],
    ['a sub path that leaves the volume', volume('shared', '/data', '../..'), /csi-subpath/],
    ['an unknown field', config({ pvName: 'scratch', mountPath: '/data', readonly: true }), /readonly/],
    ['a target in another', config({ pvName: 'scratch', mountPath: '/a' }, { pvName: 'shared', mountPath: '/a/b' }), /mountPath|\/a/],
  ]) {
    it(`refuse ${name} with 400 and the place`, () => assert.rejects(Sandbox.create('base', { timeoutMs: 60_000, metadata }), (err) => {
      assert.match(err.message, /400/)
      assert.match(err.message, place)
      return true
    }))
  }

  it('that do not mount are named, and nothing is handed out', async () => {
    const listed = async () => (await Sandbox.list().nextItems()).length
    const before = await listed()
    await assert.rejects(Sandbox.create('base', { metadata: volume('oss-wrong-key', '/data') }), /oss-wrong-key/)
    assert.ok(await eventually(async () => (await listed()) === before))
  })
})
