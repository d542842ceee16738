/**
 * What a server holds: databases, collections, documents, and the log of operations that followers copy.
 *
 * @internal
 */

/** @internal */
export interface StoredDocument {
  readonly _key: string
  readonly _id: string
  readonly _rev: string
  readonly [field: string]: unknown
}

/** @internal */
export type Operation =
  | { readonly kind: "collection"; readonly database: string; readonly collection: string }
  | { readonly kind: "drop"; readonly database: string; readonly collection: string }
  | {
      readonly kind: "put"
      readonly database: string
      readonly collection: string
      readonly key: string
      readonly document: StoredDocument
    }
  | {
      readonly kind: "remove"
      readonly database: string
      readonly collection: string
      readonly key: string
    }

type Collection = Map<string, StoredDocument>

/** @internal */
export interface Store {
  /** How many operations are in it: the further a follower is, the better a leader it makes. */
  readonly tick: () => number
  readonly apply: (operation: Operation) => void
  readonly collections: (database: string) => ReadonlyArray<string>
  readonly collection: (
    database: string,
    collection: string
  ) => ReadonlyMap<string, StoredDocument> | undefined
  readonly copy: () => Store
}

/** @internal */
export const make = (
  initial: ReadonlyMap<
    string,
    ReadonlyMap<string, ReadonlyMap<string, StoredDocument>>
  > = new Map(),
  initialTick = 0
): Store => {
  const databases = new Map<string, Map<string, Collection>>()
  for (const [database, collections] of initial) {
    databases.set(
      database,
      new Map([...collections].map(([name, documents]) => [name, new Map(documents)]))
    )
  }
  let tick = initialTick

  const database = (name: string): Map<string, Collection> => {
    const found = databases.get(name)
    if (found !== undefined) return found
    const created = new Map<string, Collection>()
    databases.set(name, created)
    return created
  }

  return {
    tick: () => tick,
    apply: (operation) => {
      tick++
      const collections = database(operation.database)
      switch (operation.kind) {
        case "collection":
          if (!collections.has(operation.collection)) {
            collections.set(operation.collection, new Map())
          }
          break
        case "drop":
          collections.delete(operation.collection)
          break
        case "put":
          collections.get(operation.collection)?.set(operation.key, operation.document)
          break
        case "remove":
          collections.get(operation.collection)?.delete(operation.key)
          break
      }
    },
    collections: (name) => [...database(name).keys()],
    collection: (name, collection) => database(name).get(collection),
    copy: () => make(databases, tick)
  }
}

/**
 * What a request works on: the server itself, or a stream transaction's own view of it.
 *
 * @internal
 */
export interface Workspace {
  readonly store: Store
  readonly write: (operation: Operation) => void
  /** Unique within the deployment. */
  readonly nextId: () => string
}
