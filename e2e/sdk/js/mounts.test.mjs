import { describe, it } from 'node:test'
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { tag, withSandbox } from './support.mjs'

// The helpers of docs/mounts.md, as they stand there; the suites run in the repository's root.
const [, helpers] = readFileSync('docs/mounts.md', 'utf8').match(/^```js\n([^]*?)^```/m)
const { mount, mounts, unmount } = await import('data:text/javascript,' + encodeURIComponent(helpers))

describe('mounts', () => {
  it('come into a living sandbox, are listed and go by the helpers of the documentation', () => withSandbox({}, async (box) => {
    const item = await mount(box.sandboxId, 'shared', '/data', { subPath: tag() })
    assert.equal(item.phase, 'Mounted')
    await box.files.write('/data/f', 'through')
    assert.deepEqual((await mounts(box.sandboxId)).map((m) => m.mountID), [item.mountID])
    assert.equal((await mount(box.sandboxId, 'shared', '/data', { subPath: item.subPath })).mountID, item.mountID)
    assert.equal(await unmount(box.sandboxId, item.mountID), true)
    assert.deepEqual(await mounts(box.sandboxId), [])
  }))

  it('stay while they are used, unless forced', () => withSandbox({}, async (box) => {
    const item = await mount(box.sandboxId, 'scratch', '/data')
    const user = await box.commands.run('sleep 300', { cwd: '/data', background: true })
    await assert.rejects(unmount(box.sandboxId, item.mountID), /"code":409.*in use/)
    assert.equal(await unmount(box.sandboxId, item.mountID, { force: true }), true)
    await user.kill()
  }))
})
