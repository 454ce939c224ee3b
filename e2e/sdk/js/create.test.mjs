import { describe, it } from 'node:test'
import assert from 'node:assert/strict'
import { AuthenticationError, Sandbox } from 'e2b'
import { Sandbox as Interpreter } from '@e2b/code-interpreter'
import { withSandbox } from './support.mjs'

describe('create', () => {
  it('uses the template base when none is named', async () => {
    const box = await Sandbox.create({ timeoutMs: 60_000 })
    try {
      assert.match(box.sandboxId, /^[a-z0-9]+$/)
      const info = await box.getInfo()
      assert.ok(info.templateId === 'base' || info.name === 'base')
    } finally {
      await box.kill()
    }
  })

  it('brings its environment to commands', () => withSandbox({ envs: { COLOUR: 'blue green', QUOTE: 'it\'s "so"' } }, async (box) => {
    assert.equal((await box.commands.run('printf "%s|%s" "$COLOUR" "$QUOTE"')).stdout, 'blue green|it\'s "so"')
  }))

  it('works from the code-interpreter package with its own template', async () => {
    const box = await Interpreter.create({ timeoutMs: 60_000 })
    try {
      assert.equal((await box.commands.run('echo $((6*7))')).stdout, '42\n')
    } finally {
      await box.kill()
    }
  })

  it('takes internet access either way', async () => {
    for (const allowInternetAccess of [true, false]) {
      await withSandbox({ allowInternetAccess }, async (box) => assert.equal(await box.isRunning(), true))
    }
  })

  it('says 404 for an unknown template', () => assert.rejects(Sandbox.create('no-such-template', { timeoutMs: 60_000 }), /404|not found|no template|unknown/i))

  it('says that a key is wrong', () => assert.rejects(Sandbox.create('base', { apiKey: 'e2b_' + '0'.repeat(40) }), AuthenticationError))

  it('refuses to pause at the timeout, with a reason', () =>
    assert.rejects(Sandbox.create('base', { timeoutMs: 60_000, lifecycle: { onTimeout: 'pause' } }), /pause/i))
})
