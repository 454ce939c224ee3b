import { describe, it } from 'node:test'
import assert from 'node:assert/strict'
import { Sandbox } from 'e2b'
import { eventually, oneSandbox, tag, withSandbox } from './support.mjs'

const remaining = async (box) => ((await box.getInfo()).endAt - Date.now()) / 1000

describe('lifecycle', () => {
  const shared = oneSandbox()

  it('tells what was asked', async () => {
    const value = tag()
    await withSandbox({ metadata: { tag: value }, timeoutMs: 90_000 }, async (box) => {
      const info = await box.getInfo()
      assert.equal(info.sandboxId, box.sandboxId)
      assert.equal(info.metadata.tag, value)
      assert.equal(info.state, 'running')
      assert.ok(info.cpuCount >= 1 && info.memoryMB >= 128)
      assert.ok(Math.abs(info.endAt - info.startedAt - 90_000) < 5000)
    })
  })

  it('connects to the same sandbox', () => withSandbox({}, async (box) => {
    await box.commands.run('echo kept > /tmp/mark')
    const again = await Sandbox.connect(box.sandboxId)
    assert.equal((await again.commands.run('cat /tmp/mark')).stdout, 'kept\n')
  }))

  it('extends by connecting and never shortens', () => withSandbox({ timeoutMs: 100_000 }, async (box) => {
    await Sandbox.connect(box.sandboxId, { timeoutMs: 20_000 })
    assert.ok((await remaining(box)) > 80)
    await Sandbox.connect(box.sandboxId, { timeoutMs: 300_000 })
    assert.ok((await remaining(box)) > 280)
  }))

  it('extends and shortens by setTimeout', () => withSandbox({ timeoutMs: 60_000 }, async (box) => {
    await box.setTimeout(200_000)
    assert.ok((await remaining(box)) > 180)
    await box.setTimeout(30_000)
    assert.ok((await remaining(box)) < 31)
  }))

  it('ends at the deadline', async () => {
    const box = await Sandbox.create('base', { timeoutMs: 60_000 })
    await box.setTimeout(1000)
    assert.ok(await eventually(async () => !(await box.isRunning()), 15_000))
    assert.equal(await box.kill(), false)
  })

  it('is killed once', async () => {
    const box = await Sandbox.create('base', { timeoutMs: 60_000 })
    assert.equal(await box.isRunning(), true)
    assert.equal(await box.kill(), true)
    assert.equal(await Sandbox.kill(box.sandboxId), false)
    assert.equal(await box.isRunning(), false)
    await assert.rejects(Sandbox.connect(box.sandboxId))
    await assert.rejects(box.setTimeout(1000))
  })

  it('ends a running command with an error when it is killed', async () => {
    const box = await Sandbox.create('base', { timeoutMs: 60_000 })
    const command = await box.commands.run('sleep 100', { background: true })
    const ended = assert.rejects(command.wait())
    assert.equal(await box.kill(), true)
    await ended
    assert.equal(await box.isRunning(), false)
  })

  it('knows no foreign id', () => assert.rejects(Sandbox.connect('i0000000000000000000')))

  it('measures this sandbox', async () => {
    const points = await eventually(async () => { const m = await shared.box.getMetrics(); return m.length > 0 && m }, 20_000)
    const last = points.at(-1)
    assert.ok(last.cpuCount >= 1 && last.memUsed > 0 && last.memUsed <= last.memTotal && last.diskTotal > 0)
  })

  it('names a host for a port', () => {
    const host = shared.box.getHost(8080)
    assert.ok(host.startsWith(`8080-${shared.box.sandboxId}.`) && !host.includes('e2b.app'), host)
  })
})
