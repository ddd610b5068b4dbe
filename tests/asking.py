"""One history, or one item, where an index takes many."""


def ask(index, history, *args, **options):
    """What an index recommends for one history."""
    [found] = index.recommend_ids([history], *args, **options)
    return found


def similar(index, item, *args, **options):
    """The nearest items of one."""
    [found] = index.similar_ids([item], *args, **options)
    return found
