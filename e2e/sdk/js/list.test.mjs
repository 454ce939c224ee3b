import { describe, it } from 'node:test'
import assert from 'node:assert/strict'
import { Sandbox } from 'e2b'
import { tag, withSandbox } from './support.mjs'

async function ids(query) {
  const pages = Sandbox.list({ query })
  const found = []
  while (pages.hasNext) found.push(...(await pages.nextItems()))
  return found.map((item) => item.sandboxId)
}

describe('list', () => {
  it('filters by all of the metadata', async () => {
    const value = tag()
    await withSandbox({ metadata: { tag: value, role: 'a b&c=d%/ä' } }, (one) => withSandbox({ metadata: { tag: value, role: 'x' } }, async (two) => {
      assert.deepEqual(new Set(await ids({ metadata: { tag: value } })), new Set([one.sandboxId, two.sandboxId]))
      assert.deepEqual(await ids({ metadata: { tag: value, role: 'a b&c=d%/ä' } }), [one.sandboxId])
      assert.deepEqual(await ids({ metadata: { tag: value, role: 'none' } }), [])
    }))
  })

  it('filters by state', async () => {
    const value = tag()
    await withSandbox({ metadata: { tag: value } }, async (box) => {
      assert.deepEqual(await ids({ metadata: { tag: value }, state: ['running'] }), [box.sandboxId])
      assert.deepEqual(await ids({ metadata: { tag: value }, state: ['paused'] }), [])
      assert.deepEqual(await ids({ metadata: { tag: value }, state: ['running', 'paused'] }), [box.sandboxId])
    })
  })

  it('holds everything once over its pages, newest first', async () => {
    const metadata = { tag: tag() }
    await withSandbox({ metadata }, (a) => withSandbox({ metadata }, (b) => withSandbox({ metadata }, async (c) => {
      const pages = Sandbox.list({ query: { metadata }, limit: 2 })
      const first = await pages.nextItems()
      assert.equal(first.length, 2)
      assert.equal(pages.hasNext, true)
      const second = await pages.nextItems()
      assert.equal(pages.hasNext, false)
      assert.deepEqual([...first, ...second].map((item) => item.sandboxId), [c, b, a].map((box) => box.sandboxId))
    })))
  })

  it('forgets what was killed', async () => {
    const metadata = { tag: tag() }
    await withSandbox({ metadata }, async (box) => assert.deepEqual(await ids({ metadata }), [box.sandboxId]))
    assert.deepEqual(await ids({ metadata }), [])
  })
})
