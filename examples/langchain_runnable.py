"""Read the outputs of a workflow's nodes in a LangChain chain, not only its answer.

    pip install "bailian-apps[langchain,emulator]"
    python examples/langchain_runnable.py

It prints what each LLM node of the workflow wrote for two cities, asked at the same time.

With `DASHSCOPE_API_KEY` and `BAILIAN_APP_ID` set, it calls that app in the cloud: a workflow with
LLM nodes. Otherwise it starts the emulator with such a workflow.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from langchain_core.prompts import PromptTemplate

from bailian_apps import AppResult
from bailian_apps.langchain import BailianAppRunnable

KNOWN = {
    "杭州": {"推荐菜": "西湖醋鱼、龙井虾仁", "推荐景点": "西湖、灵隐寺"},
    "苏州": {"推荐菜": "松鼠桂鱼、三虾面", "推荐景点": "拙政园、虎丘"},
}


def connect(stack: ExitStack) -> BailianAppRunnable:
    """Return the app in the cloud, or one in the emulator that knows two cities."""
    if os.environ.get("DASHSCOPE_API_KEY") and os.environ.get("BAILIAN_APP_ID"):
        return BailianAppRunnable()
    from bailian_apps.emulator import Emulator, Node, Rule, Rules, When, Workflow

    rules: list[Rule] = []
    for city, written in KNOWN.items():
        nodes = [Node(name=name, after=[], output=text) for name, text in written.items()]
        end = Node(name="结束", type="End", output="祝您玩得开心！")
        rules.append(Rule(when=When(prompt=city), workflow=Workflow(nodes=[*nodes, end])))
    cloud = stack.enter_context(Emulator(apps={"travel": Rules(rules=rules)}))
    return BailianAppRunnable(app_id="travel", api_key="any", base_url=cloud.base_url)


def outputs(result: AppResult) -> dict[str, str]:
    """Return what each LLM node wrote."""
    return {step.name: step.output or "" for step in result.steps if step.type == "LLM"}


def main() -> None:
    """Ask about two cities at once, and print a line for each node."""
    with ExitStack() as stack:
        prompt = PromptTemplate.from_template("{city}有什么好吃的、好玩的？")
        chain = prompt | connect(stack) | outputs
        for city, written in zip(KNOWN, chain.batch([{"city": c} for c in KNOWN]), strict=True):
            print(city)
            for name, text in written.items():
                print(f"  {name}: {text}")


if __name__ == "__main__":
    main()
