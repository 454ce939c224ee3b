// What the JS suites share. The runner sets E2B_*, SDK_VERSION, WORLD_SHARED (the allowed host directory) and WORLD_BUCKET.
import { after, before } from 'node:test'
import { randomBytes } from 'node:crypto'
import { setTimeout as pause } from 'node:timers/promises'
import { Sandbox } from 'e2b'

const prefix = 'e2b.agents.kruise.io/csi-'

export const tag = () => randomBytes(12).toString('hex')

/** Runs body with a sandbox that is killed afterwards. */
export async function withSandbox(options, body, { template = 'base', Class = Sandbox } = {}) {
  const box = await Class.create(template, { timeoutMs: 120_000, ...options })
  try {
    return await body(box)
  } finally {
    await box.kill()
  }
}

/** One sandbox for all tests of a suite that leave it as it was. */
export function oneSandbox() {
  const holder = {}
  before(async () => { holder.box = await Sandbox.create('base', { timeoutMs: 300_000 }) })
  after(async () => { await holder.box?.kill() })
  return holder
}

/** Polls until check() is truthy and returns it; the last value after the deadline. */
export async function eventually(check, within = 10_000) {
  const deadline = Date.now() + within
  for (;;) {
    const value = await check()
    if (value || Date.now() > deadline) return value
    await pause(50)
  }
}

export function volume(name, path, subpath) {
  return { [prefix + 'volume-name']: name, [prefix + 'mount-point']: path, ...(subpath && { [prefix + 'subpath']: subpath }) }
}

export const config = (...mounts) => ({ [prefix + 'volume-config']: JSON.stringify(mounts) })
